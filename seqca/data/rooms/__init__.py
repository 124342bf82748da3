"""The data set `rooms`: indoor scenes rendered by ray casting, with exact labels; no download."""

from seqca.data.rooms.classes import ROOMS_CLASSES
from seqca.data.rooms.dataset import ROOMS_TASKS, Rooms
from seqca.data.rooms.layout import SPLITS, make_scene
from seqca.data.rooms.render import Rendering, render

__all__ = ["ROOMS_CLASSES", "ROOMS_TASKS", "SPLITS", "Rendering", "Rooms", "make_scene", "render"]
