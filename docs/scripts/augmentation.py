"""Draws docs/images/augmentation.png: a training sample of each data set as it is and augmented, under both protocols.

    python docs/scripts/augmentation.py [--nyud ROOT] [--nyud-invpt ROOT] [--pascal ROOT] [--out FILE.png]

Without archives of one's own it takes the small ones of the tests.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from seqca.data import NYUDv2, PASCALContext, denormalise
from seqca.data.augmentation import augmentation
from seqca.data.files import FileDataset
from seqca.data.preparation import prepare
from seqca.data.transforms import augment
from seqca.tasks import get_task

ARCHIVES = Path(__file__).parents[2] / "tests" / "golden" / "datasets"
DRAWS = 3
SIDE = 96  # pixels, the height of a tile
GAP = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nyud", type=Path, default=ARCHIVES / "nyud_mtinet", help="archive NYUD_MT")
    parser.add_argument("--nyud-invpt", type=Path, default=ARCHIVES / "nyud_invpt", help="archive NYUDv2")
    parser.add_argument("--pascal", type=Path, default=ARCHIVES / "pascal", help="archive PASCAL_MT")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images" / "augmentation.png")
    options = parser.parse_args()

    nyud, pascal = ("semseg", "depth", "normals"), ("semseg", "human_parts", "normals")
    rows = [
        [
            draw(NYUDv2(options.nyud, "train", nyud, "mtinet")),
            draw(PASCALContext(options.pascal, "train", pascal, "mtinet")),
        ],
        [
            draw(NYUDv2(options.nyud_invpt, "train", nyud, "invpt")),
            draw(PASCALContext(options.pascal, "train", pascal, "invpt")),
        ],
    ]
    size = [max(block.shape[axis] for row in rows for block in row) + 2 * GAP for axis in (0, 1)]
    picture = np.concatenate([np.concatenate([fill(block, size) for block in row], 1) for row in rows])
    Image.fromarray(picture).quantize(256).save(options.out)
    print(f"{options.out}: NYUD-v2 left, PASCAL-Context right, mtinet above, invpt below; first columns not augmented")


def draw(data: FileDataset) -> np.ndarray:
    """Image and labels, one below the other, as stored and as drawn at random."""
    height, width = data.load(0)["image"].shape[:2]
    size = (-(-height // 32) * 32, -(-width // 32) * 32)  # small archives have small images: no larger than these
    data = type(data)(data.root, data.split, tuple(data.tasks), data.protocol, size)
    transform = augmentation(data.protocol, data.preparation)
    samples = [data[0]] + [
        prepare(augment(data.stored(0), transform, 0, key), data.protocol, data.preparation) for key in range(DRAWS)
    ]
    columns = []
    for sample in samples:
        tiles = [denormalise(sample["image"]), *(get_task(task).colour(sample[task].numpy()) for task in data.tasks)]
        columns.append([scale(tile) for tile in tiles])
    rows = [np.concatenate([border(column[i]) for column in columns], 1) for i in range(len(columns[0]))]
    return np.concatenate(rows)


def fill(block: np.ndarray, size: list[int]) -> np.ndarray:
    bottom, right = size[0] - block.shape[0], size[1] - block.shape[1]
    return np.pad(block, ((0, bottom), (0, right), (0, 0)), constant_values=255)


def scale(tile: np.ndarray) -> np.ndarray:
    width = round(SIDE * tile.shape[1] / tile.shape[0])
    return np.asarray(Image.fromarray(tile).resize((width, SIDE), Image.Resampling.NEAREST))


def border(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main()
