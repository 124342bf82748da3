"""`seqca predict`: every task for pictures of one's own."""

import argparse
import importlib
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from seqca.data.normalise import normalise

from .panel import draw_panel, save_panel
from .restore import load_network

DONE, SOME_FAILED, NOTHING_DONE = 0, 3, 4
EXTENSIONS = frozenset([".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status, see `build_parser`."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    images, problems = find_images(options.images, options.out)
    folders = [*options.images, *(path.parent for path in images)]
    if any(folder.absolute() == options.out.absolute() for folder in folders):
        parser.error(f"--out must be another folder than that of the pictures, got {options.out}")
    for name in options.imports:
        try:
            importlib.import_module(name)
        except ImportError as error:
            parser.error(f"--import {name}: {error}")
    try:
        network, class_names = load_network(options.ckpt)
    except ValueError as error:
        print(f"seqca predict: --ckpt: {error}", file=sys.stderr)
        return NOTHING_DONE
    try:
        network.to(options.device)
    # What torch raises depends on whether the name, the support for it or the device is missing.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        parser.error(f"--device {options.device}: {str(error).splitlines()[0]}")
    options.out.mkdir(parents=True, exist_ok=True)
    names = output_names(images)
    written = 0
    for path in tqdm(images, desc="predicting", unit="image", disable=None):
        try:
            image = read_image(path)
            inputs = normalise(image)[None].to(options.device)
            predictions = {task: p[0].cpu().numpy() for task, p in network.predict(inputs).items()}
        # Where memory runs out torch raises RuntimeError on a CPU, and a kind of it on a GPU.
        except (UnreadableImage, MemoryError, RuntimeError) as error:
            problems.append(f"{path}: {error}")
            continue
        save_arrays(options.out / f"{names[path]}.npz", predictions)
        save_panel(draw_panel(image, predictions, None, class_names), options.out / f"{names[path]}.png")
        written += 1
        if names[path] != path.stem:
            tqdm.write(f"{path}: as {names[path]}")
    for problem in problems:
        print(f"seqca predict: skipped {problem}", file=sys.stderr)
    print(f"{written} of {written + len(problems)} done, in {options.out}")
    if not written:
        return NOTHING_DONE
    return SOME_FAILED if problems else DONE


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqca predict",
        description="Predict every task of a checkpoint for pictures. Each picture gives a panel (.png) and the raw "
        "arrays at the picture's own size (.npz): depth in metres, unit normals (x right, y down, z into the scene), "
        "class indices, probabilities.",
        epilog=f"exit status: {DONE} all done; {SOME_FAILED} some files could not be read, the others are done; "
        f"{NOTHING_DONE} nothing done; 2 wrong usage",
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="checkpoint of seqca fit, or of the published format")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="pictures, and folders of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to, made if need be")
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="Python module to import first, one that registers tasks of your own; may be repeated",
    )
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=best, help="where to compute (default here: %(default)s)")
    return parser


def find_images(paths: Iterable[Path], out: Path) -> tuple[list[Path], list[str]]:
    """The files that are given, and those with a picture's extension in and below the folders that are given, each
    once and without those below `out`; and what is wrong with paths that lead to none."""
    images: dict[Path, None] = {}
    problems = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            found = [p for p in found if not p.absolute().is_relative_to(out.absolute())]
            images.update(dict.fromkeys(found))
            if not found:
                problems.append(f"{path}: no pictures in this folder")
        elif path.is_file():
            images[path] = None
        else:
            problems.append(f"{path}: no such file or folder")
    return list(images), problems


def output_names(images: Iterable[Path]) -> dict[Path, str]:
    """A name for the outputs of each image, its own without extension; where an earlier image has that, by the eyes
    of a file system that ignores case, with a number: x, x_2, x_3."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in images:
        candidates = itertools.chain([path.stem], (f"{path.stem}_{number}" for number in itertools.count(2)))
        names[path] = next(name for name in candidates if name.casefold() not in taken)
        taken.add(names[path].casefold())
    return names


class UnreadableImage(ValueError):
    """A file that holds no picture, a damaged one or one of an unknown kind."""


def read_image(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB, turned the way its EXIF orientation says; what is transparent becomes white."""
    try:
        with Image.open(path) as picture:
            return np.asarray(to_rgb(ImageOps.exif_transpose(picture)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises any of these
        raise UnreadableImage(str(error)) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"pictures of mode {picture.mode} have no known range of brightness")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def save_arrays(path: Path, predictions: dict[str, np.ndarray]) -> None:
    """Write an .npz; the file appears only when it is complete. Classes are stored as uint8, as uint16 from 256 on."""
    arrays: dict[str, Any] = {
        task: values.astype(np.min_scalar_type(values.max())) if values.dtype.kind in "iu" else values
        for task, values in predictions.items()
    }
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
