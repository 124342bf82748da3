"""NYUD-v2 with the labels of 40 classes, depth, surface normals and edges."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from seqca.labels import LabelRange

from .files import (
    STORED_DEPTH,
    STORED_VECTORS,
    FileDataset,
    checked,
    classes_up_to,
    decode_vectors,
    read_array,
    read_picture,
)

NYUD_CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip

FOLDERS = {"image": "images", "semseg": "segmentation", "depth": "depth", "normals": "normals", "edge": "edge"}
SUFFIXES = {
    "mtinet": {"image": ".jpg", "semseg": ".png", "depth": ".npy", "normals": ".npy", "edge": ".npy"},
    "invpt": {"image": ".png", "semseg": ".png", "depth": ".npy", "normals": ".png", "edge": ".png"},
}


class NYUDv2(FileDataset):
    """NYUD-v2: 795 training and 654 validation images of rooms (Silberman et al., ECCV 2012) with 40 classes (Gupta et
    al., CVPR 2013), depth in metres, surface normals and edges between objects.

    `mtinet` reads the archive NYUD_MT (480×640), `invpt` the archive NYUDv2 (425×560). Arguments and attributes are
    those of `FileDataset`; tasks are semseg, depth, normals and edge.
    """

    name = "nyud"
    max_distance = 0.011
    available: Mapping[str, Sequence[str] | None] = {
        "semseg": NYUD_CLASSES,
        "depth": None,
        "normals": None,
        "edge": None,
    }

    def split_file(self, split: str) -> Path:
        return self.root / "gt_sets" / f"{split}.txt"

    def files(self, name: str) -> dict[str, Path]:
        return {key: self.root / folder / f"{name}{SUFFIXES[self.protocol][key]}" for key, folder in FOLDERS.items()}

    def read(self, name: str, task: str) -> np.ndarray:
        path = self.files(name)[task]
        if task == "semseg":
            # Stored 0 is void and 1 … 40 are the classes: one less, in 8 bits, makes them 255 and 0 … 39.
            stored = checked(path, task, read_picture(path, "L"), classes_up_to(len(NYUD_CLASSES), None))
            return (stored - np.uint8(1)).astype(np.int64)
        if task == "depth":
            return checked(path, task, read_array(path, 2), STORED_DEPTH)[None]
        if task == "normals":
            if path.suffix == ".png":
                return decode_vectors(read_picture(path, "RGB"))
            vectors = read_array(path, 3)
            if vectors.shape[2] != 3:
                raise ValueError(f"{path}: got an array {vectors.shape}, expected (H, W, 3)")
            return checked(path, task, vectors.transpose(2, 0, 1), STORED_VECTORS)
        edges = read_picture(path, "L").astype(np.float32) / 255 if path.suffix == ".png" else read_array(path, 2)
        return checked(path, task, edges, LabelRange(0, 1, ignore=None))[None]
