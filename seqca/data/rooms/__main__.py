"""`python -m seqca.data.rooms`: look at scenes of the data set, or measure how fast they are made."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from seqca.data.rooms.classes import ROOMS_CLASSES
from seqca.data.rooms.dataset import ROOMS_TASKS, Rooms
from seqca.data.rooms.layout import SPLITS
from seqca.data.rooms.render import Rendering
from seqca.tasks import get_task


def contact_sheet(rooms: Rooms) -> np.ndarray:
    """(rows · H, 6 · W, 3) uint8: a row for each scene, the image and each label."""
    rows = []
    for index in range(len(rooms)):
        rendering = rooms.rendering(index)
        pictures = [get_task(task).colour(_label(rendering, task)) for task in ROOMS_TASKS]
        rows.append(np.concatenate([rendering.image, *pictures], axis=1))
    return np.concatenate(rows)


def _label(rendering: Rendering, task: str) -> np.ndarray:
    label = getattr(rendering, task)
    return label if task in ("semseg", "normals") else label[None]


def save_png(image: np.ndarray, path: Path) -> None:
    """Write an RGB image; the file appears only when it is complete."""
    try:
        from PIL import Image
    except ImportError as error:
        raise SystemExit("--preview writes a PNG with Pillow, which is not installed: pip install pillow") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    Image.fromarray(image).save(partial, format="PNG")
    os.replace(partial, path)


def measure(rooms: Rooms) -> str:
    """Scenes a second of processor time through the data set, and how the classes share the pixels."""
    pixels = np.zeros(len(ROOMS_CLASSES))
    scenes = np.zeros(len(ROOMS_CLASSES))
    rooms[0]
    spent = 0.0
    for index in range(len(rooms)):
        start = time.process_time()
        sample = rooms[index]
        spent += time.process_time() - start
        count = np.bincount(np.asarray(sample["semseg"]).ravel(), minlength=len(ROOMS_CLASSES))
        pixels += count / count.sum()
        scenes += count > 0
    height, width = rooms.size
    lines = [
        f"{len(rooms) / spent:.1f} scenes/s at {height}x{width} per core, {1000 * spent / len(rooms):.1f} ms each",
        "",
    ]
    lines.append("class     pixels  scenes")
    for name, share, presence in zip(ROOMS_CLASSES, pixels / len(rooms), scenes / len(rooms), strict=True):
        lines.append(f"{name:8s} {100 * share:6.2f}%  {100 * presence:5.1f}%")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m seqca.data.rooms", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--preview", type=Path, metavar="PNG", help="write a sheet of images and labels")
    action.add_argument("--speed", action="store_true", help="measure scenes a second and class frequencies")
    parser.add_argument("--split", choices=tuple(SPLITS), default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="number of scenes (default: 6 for a preview, 200 for the speed)")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    count = options.count if options.count is not None else 200 if options.speed else 6
    try:
        rooms = Rooms(options.split, count, tuple(options.size), options.seed, tuple(ROOMS_TASKS))
    except ValueError as error:
        parser.error(str(error))
    if options.speed:
        print(measure(rooms))
    else:
        save_png(contact_sheet(rooms), options.preview)
        print(f"{count} scenes in {options.preview}")


if __name__ == "__main__":
    main()
