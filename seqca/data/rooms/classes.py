"""The semantic classes of `rooms`."""

from __future__ import annotations

ROOMS_CLASSES: tuple[str, ...] = (
    "wall",
    "floor",
    "ceiling",
    "rug",
    "door",
    "window",
    "picture",
    "table",
    "chair",
    "sofa",
    "bed",
    "cabinet",
    "shelf",
    "lamp",
    "object",
)

CLASS_INDEX: dict[str, int] = {name: index for index, name in enumerate(ROOMS_CLASSES)}

# What belongs to the room and lies flat against it is never the foremost object.
STRUCTURE: frozenset[str] = frozenset({"wall", "floor", "ceiling", "rug", "door", "window", "picture"})
