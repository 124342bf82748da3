"""Data sets, their labels' ranges and the normalisation of images."""

from seqca.data.labels import LabelRange, check_label
from seqca.data.normalise import IMAGENET_MEAN, IMAGENET_STD, denormalise, normalise
from seqca.data.rooms import ROOMS_CLASSES, Rooms

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ROOMS_CLASSES",
    "LabelRange",
    "Rooms",
    "check_label",
    "denormalise",
    "normalise",
]
