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
    from seqca.data.rooms import ROOMS_CLASSES, Rooms

_LAZY = {"ROOMS_CLASSES": "seqca.data.rooms", "Rooms": "seqca.data.rooms"}

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ROOMS_CLASSES",
    "DenseDataset",
    "LabelRange",
    "Rooms",
    "check_label",
    "denormalise",
    "normalise",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
