"""Data sets, their labels' ranges and the normalisation of images."""

from seqca.data.normalise import IMAGENET_MEAN, IMAGENET_STD, denormalise, normalise
from seqca.data.rooms import ROOMS_CLASSES, Rooms
from seqca.labels import LabelRange, check_label

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
