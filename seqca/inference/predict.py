"""`seqca predict`: every task for pictures of one's own."""

import argparse
import errno
import importlib
import itertools
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from seqca.data.normalise import normalise
from seqca.files import disk_is_full, remove_leftovers, same_folder, temporary_file
from seqca.models import SequentialCrossAttentionNet
from seqca.models.checkpoint import CheckpointError
from seqca.ops import BackendUnavailable

from .output import (
    ARRAYS,
    ENDS,
    PANEL,
    TEMPORARY,
    ForeignFile,
    check_free,
    is_signed,
    npz_bytes,
    png_bytes,
    write_signed,
)
from .panel import draw_panel
from .resizing import LARGE, enlarge, fitting_size, shrink
from .restore import ClassNames, load_network

DONE, SOME_FAILED, NOTHING_DONE = 0, 3, 4
SHOWN = 5  # names in a message
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
EXTENSIONS = frozenset([".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status, see `build_parser`."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    images, problems = find_images(options.images)
    refuse_overlap(parser, options.out, [*options.images, *images])
    targets = {path: options.out / name for path, name in output_names(images).items()}
    refuse_replacing(parser, targets.values())
    for name in options.imports:
        try:
            importlib.import_module(name)
        except ImportError as error:
            parser.error(f"--import {name}: {error}")
    try:
        network, class_names = load_network(options.ckpt)
    except CheckpointError as error:
        return nothing_done(f"--ckpt: {error}")
    try:
        network.to(options.device)
    # What torch raises depends on whether the name, the support for it or the device is missing.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        parser.error(f"--device {options.device}: {str(error).splitlines()[0]}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(options.out, TEMPORARY)
        with temporary_file(options.out, TEMPORARY):
            pass  # so that a folder that cannot be written to is known before anything is computed
    except OSError as error:
        return nothing_done(f"--out {options.out}: {error.strerror}")
    warn_of_large(images, options.max_side)
    written, missing = 0, len(problems)
    for path, target in tqdm(targets.items(), desc="predicting", unit="image", disable=None):
        try:
            predict_one(network, path, target, class_names, options.device, options.panel, options.max_side)
        except BackendUnavailable:  # a backend that was forced, which no picture is to blame for
            raise
        # Where memory runs out torch raises RuntimeError on a CPU, and a kind of it on a GPU; Matplotlib a ValueError
        # where it cannot draw.
        except (UnreadableImage, MemoryError, RuntimeError, ValueError) as error:
            problems.append(f"{path}: {error}")
        except OSError as error:
            problems.append(f"{path}: {error.strerror}: {error.filename or target}")
            if disk_is_full(error) or error.errno in UNWRITABLE:  # the others would fare no better
                break
        except KeyboardInterrupt:
            print(f"{written} of {len(targets) + missing} done, in {options.out}")
            raise
        else:
            written += 1
            if target.name != path.stem:
                tqdm.write(f"{path}: as {target.name}")
    for problem in problems:
        print(f"seqca predict: skipped {problem}", file=sys.stderr)
    print(f"{written} of {len(targets) + missing} done, in {options.out}")
    if not written:
        return NOTHING_DONE
    return SOME_FAILED if problems else DONE


def predict_one(
    network: SequentialCrossAttentionNet,
    path: Path,
    target: Path,
    class_names: ClassNames,
    device: str,
    with_panel: bool,
    max_side: int | None,
) -> None:
    """Write the arrays of one picture and, if wanted, its panel, `target` with their suffixes. Both have the picture's
    own size, whatever the size at which the network sees it."""
    arrays, panel = (target.with_name(target.name + suffix) for suffix in (ARRAYS, PANEL))
    for file in (arrays, panel) if with_panel else (arrays,):
        check_free(file)
    image = read_image(path)
    inputs = normalise(shrink(image, max_side))[None].to(device)
    predictions = {
        task: enlarge(p[0].cpu().numpy(), task, image.shape[:2]) for task, p in network.predict(inputs).items()
    }
    contents = {arrays: npz_bytes(predictions)}
    if with_panel:
        contents[panel] = png_bytes(draw_panel(image, predictions, None, class_names))
    write_signed(contents)


def warn_of_large(images: Iterable[Path], max_side: int | None) -> None:
    """Say, before anything is computed, that some pictures are so large that one takes minutes or a lot of memory."""
    large = {path: size for path in images if (size := predicted_size(path, max_side)) and math.prod(size) > LARGE}
    if large:
        path, (height, width) = max(large.items(), key=lambda item: math.prod(item[1]))
        print(
            f"seqca predict: {len(large)} of the pictures above {LARGE // 10**6} megapixels, the largest {path} "
            f"({width}×{height}): time and memory are {height * width / (480 * 640):.0f} times those of 640×480; "
            "--max-side N shrinks the longer side to N pixels first",
            file=sys.stderr,
        )


def predicted_size(path: Path, max_side: int | None) -> tuple[int, int] | None:
    """Height and width at which the network would see a picture, from the head of its file; None if that has none."""
    try:
        with Image.open(path) as picture:
            return fitting_size(picture.height, picture.width, max_side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # it is skipped, and why, when it is read


def nothing_done(reason: str) -> int:
    print(f"seqca predict: {reason}", file=sys.stderr)
    return NOTHING_DONE


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqca predict",
        description="Predict every task of a checkpoint for pictures. Each picture gives a panel (.png) and the raw "
        "arrays at the picture's own size (.npz): depth in metres, unit normals (x right, y down, z into the scene), "
        "class indices, probabilities.",
        epilog=f"exit status: {DONE} all done; {SOME_FAILED} some files could not be read or written, the others are "
        f"done; {NOTHING_DONE} nothing done; 2 wrong usage",
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
    parser.add_argument("--no-panel", dest="panel", action="store_false", help="write the arrays alone")
    parser.add_argument(
        "--max-side",
        type=positive,
        metavar="N",
        help="shrink pictures whose longer side has more than N pixels before predicting; arrays and panel still have "
        "the picture's own size",
    )
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=best, help="where to compute (default here: %(default)s)")
    return parser


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected a positive integer")
    return int(text)


def find_images(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The files that are given, and those with a picture's extension in and below the folders that are given, each
    once and without the panels that this command wrote; and what is wrong with paths that lead to none."""
    images: dict[Path, None] = {}
    problems = []
    for path in paths:
        if os.path.isdir(path):  # which, unlike Path's, takes any name
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            found = [p for p in found if not is_ours(p)]
            images.update(dict.fromkeys(found))
            if not found:
                problems.append(f"{path}: no pictures in this folder")
        elif os.path.isfile(path):
            images[path] = None
        else:
            problems.append(f"{path}: got no file or folder, expected one")
    return list(images), problems


def is_ours(path: Path) -> bool:
    """Whether a picture is a panel of this command; one that cannot be read is not, and is told of when its turn
    comes."""
    try:
        return is_signed(path)
    except OSError:
        return False


def refuse_overlap(parser: argparse.ArgumentParser, out: Path, paths: Iterable[Path]) -> None:
    """End with wrong usage where outputs would go into a folder that pictures come from, by whatever path."""
    for path in paths:
        folders = [path] if os.path.isdir(path) else [path.parent, Path(os.path.realpath(path)).parent]
        if any(same_folder(folder, out) for folder in folders):
            parser.error(f"--out: got {out}, from which {path} is taken, expected another folder")


def refuse_replacing(parser: argparse.ArgumentParser, targets: Iterable[Path]) -> None:
    """End with wrong usage where a file that this command did not write has the name of an output. It is asked again
    when the output is written; here it is before anything was computed."""
    foreign = []
    for target in targets:
        for suffix in ENDS:
            try:
                check_free(target.with_name(target.name + suffix))
            except ForeignFile:
                foreign.append(target.name + suffix)
            except OSError:
                continue  # it concerns this output alone, which is skipped
    if foreign:
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        names = ", ".join(foreign[:SHOWN])
        parser.error(f"--out: would replace {names}{more}, which seqca predict did not write; expected another folder")


def output_names(images: Iterable[Path]) -> dict[Path, str]:
    """A name for the outputs of each image, its own without extension; where an earlier image has that, by the eyes
    of a file system that ignores case, with a number: x, x_2, x_3."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in images:
        candidates = itertools.chain([path.stem], (f"{path.stem}_{number}" for number in itertools.count(2)))
        names[path] = next(name for name in candidates if folded(name) not in taken)
        taken.add(folded(names[path]))
    return names


def folded(name: str) -> str:
    """What names have in common that some file systems take for one: case, and how accents are composed."""
    return unicodedata.normalize("NFC", name).casefold()


class UnreadableImage(ValueError):
    """A file that holds no picture, a damaged one or one of an unknown kind."""


def read_image(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB, turned the way its EXIF orientation says; what is transparent becomes white."""
    try:
        with Image.open(path) as picture:
            return np.array(to_rgb(ImageOps.exif_transpose(picture)))
    except MemoryError:
        raise
    except Exception as error:  # what Pillow raises depends on the format and on the damage: TypeError, EOFError, …
        raise UnreadableImage(str(error)) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"got a picture of mode {picture.mode}, expected one whose range of brightness is known")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
