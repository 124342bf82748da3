"""Data sets and the normalisation of images.

A data set is imported when its name is first used: reading images takes neither the renderer of rooms nor what reads
the files of the others.
"""

import importlib
from typing import TYPE_CHECKING, Any

from seqca.data.dataset import DenseDataset
from seqca.data.normalise import IMAGENET_MEAN, IMAGENET_STD, denormalise, normalise
from seqca.labels import LabelRange, check_label

if TYPE_CHECKING:
    from seqca.data.nyud import NYUD_CLASSES, NYUDv2
    from seqca.data.pascal import PASCAL_CLASSES, PASCALContext
    from seqca.data.rooms import ROOMS_CLASSES, Rooms

_LAZY = {
    "NYUD_CLASSES": "seqca.data.nyud",
    "PASCAL_CLASSES": "seqca.data.pascal",
    "ROOMS_CLASSES": "seqca.data.rooms",
    "NYUDv2": "seqca.data.nyud",
    "PASCALContext": "seqca.data.pascal",
    "Rooms": "seqca.data.rooms",
}

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "NYUD_CLASSES",
    "PASCAL_CLASSES",
    "ROOMS_CLASSES",
    "DenseDataset",
    "LabelRange",
    "NYUDv2",
    "PASCALContext",
    "Rooms",
    "check_label",
    "denormalise",
    "normalise",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
