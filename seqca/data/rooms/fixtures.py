"""What belongs to the room itself: skirting, doors, windows, pictures, rugs.

A spot on a wall has x along the wall, y pointing into the room and z = 0 on the floor; sizes are metres.
"""

from __future__ import annotations

from seqca.data.rooms.builder import Spot
from seqca.data.rooms.random_stream import RandomStream
from seqca.data.rooms.style import Style
from seqca.data.rooms.textures import Material

_SKY = (0.25, 0.5, 0.9)
_HILLS = ((0.08, 0.2, 0.06), (0.25, 0.22, 0.12), (0.3, 0.34, 0.4))


def skirting(wall: Spot, length: float, material: Material) -> None:
    """A board along the foot of a wall, part of the wall."""
    wall.object("wall").box((-length / 2, 0.0, 0.0), (length / 2, 0.015, 0.09), material, casts=False)


def door(wall: Spot, w: float, h: float, style: Style, rng: RandomStream) -> None:
    """A closed door: leaf, frame or none, up to two raised panels, a handle."""
    part = wall.object("door")
    leaf, frame = style.solid(rng), style.solid(rng)
    border = rng.pick((0.0, 0.08))
    if border:
        for low, high in ((-w / 2, -w / 2 + border), (w / 2 - border, w / 2)):
            part.box((low, 0.0, 0.0), (high, 0.05, h), frame, casts=False)
        part.box((-w / 2 + border, 0.0, h - border), (w / 2 - border, 0.05, h), frame, casts=False)
    part.box((-w / 2 + border, 0.0, 0.0), (w / 2 - border, 0.03, h - border), leaf, casts=False)
    panels = rng.weighted(((((0.12, 0.48), (0.54, 0.92)), 0.25), (((0.1, 0.92),), 0.25), ((), 0.5)))
    panel = leaf if rng.chance(0.7) else style.solid(rng)
    for low, high in panels:
        part.box((-w / 2 + 0.2, 0.03, low * h), (w / 2 - 0.2, 0.045, high * h), panel, casts=False)
    side = rng.pick((-1.0, 1.0)) * (w / 2 - 0.14)
    part.ball((side, 0.07, 1.03), (0.035, 0.035, 0.035), style.paint(rng), casts=False)


def window(wall: Spot, w: float, sill: float, h: float, style: Style, rng: RandomStream) -> None:
    """A window between the heights sill and sill + h: pane with a view, bars, frame, sill, often curtains."""
    part = wall.object("window")
    frame = style.solid(rng)
    pane = Material("sky", _SKY, rng.pick(_HILLS), phase=rng.random(), emission=rng.uniform(0.6, 1.1))
    part.box((-w / 2, 0.0, sill), (w / 2, 0.01, sill + h), pane, casts=False)
    t = 0.06
    for low, high in ((-w / 2, -w / 2 + t), (w / 2 - t, w / 2)):
        part.box((low, 0.0, sill + t), (high, 0.05, sill + h - t), frame, casts=False)
    for low in (sill, sill + h - t):
        part.box((-w / 2, 0.0, low), (w / 2, 0.05, low + t), frame, casts=False)
    bars = max(1, round(w / 0.75)) - 1 if rng.chance(0.6) else 0
    for i in range(bars):
        x = -w / 2 + (i + 1) * w / (bars + 1)
        part.box((x - 0.025, 0.0, sill + t), (x + 0.025, 0.04, sill + h - t), frame, casts=False)
    if rng.chance(0.25):
        z = sill + 0.62 * h
        part.box((-w / 2 + t, 0.0, z - 0.02), (w / 2 - t, 0.035, z + 0.02), frame, casts=False)
    if rng.chance(0.6):
        curtains(part, w, sill, h, style, rng)
    else:
        part.box((-w / 2 - 0.06, 0.0, sill - 0.04), (w / 2 + 0.06, 0.12, sill), frame, casts=False)


def curtains(part: Spot, w: float, sill: float, h: float, style: Style, rng: RandomStream) -> None:
    """Two curtains in folds on a rod."""
    cloth = style.cloth(rng)
    top, bottom = sill + h + 0.08, sill - 0.12
    rod = w / 2 + 0.28
    part.roll((-rod, rod), 0.06, top, 0.015, style.solid(rng), casts=False)
    for side in (-1.0, 1.0):
        for fold in range(2):
            x = side * (w / 2 + 0.18 - 0.1 * fold)
            part.column(x, 0.06, (bottom, top - 0.02), (0.058, 0.05), cloth, casts=False)


def picture(wall: Spot, w: float, z: float, h: float, style: Style, rng: RandomStream) -> None:
    """A framed picture whose lower edge is at height z: frame, passe-partout, canvas."""
    part = wall.object("picture")
    part.box((-w / 2, 0.0, z), (w / 2, 0.03, z + h), style.solid(rng), casts=False)
    margin = 0.04
    if rng.chance(0.3):
        part.box((-w / 2 + 0.04, 0.03, z + 0.04), (w / 2 - 0.04, 0.034, z + h - 0.04), style.paint(rng), casts=False)
        margin = 0.04 + 0.12 * min(w, h)
    base, accent = rng.sample(style.colours, 2)
    kind = rng.weighted((("canvas", 0.7), ("stripes", 0.1), ("checker", 0.1), ("marble", 0.1)))
    scale = 0.22 * max(w, h) if kind == "canvas" else 0.12
    image = Material(kind, base, accent, scale=scale, phase=4.0 * rng.random())
    low, high = (-w / 2 + margin, 0.034, z + margin), (w / 2 - margin, 0.038, z + h - margin)
    part.box(low, high, image, casts=False)


def rug(spot: Spot, w: float, d: float, style: Style, rng: RandomStream) -> None:
    """A rug, square or round, with a border or without."""
    part = spot.object("rug")
    cloth = style.cloth(rng)
    bordered = rng.chance(0.5)
    border = style.cloth(rng) if bordered else cloth
    if rng.chance(0.25):
        r = min(w, d) / 2
        part.column(0.0, 0.0, (0.0, 0.012), (r, r), border, casts=False)
        if bordered:
            part.column(0.0, 0.0, (0.012, 0.016), (0.85 * r, 0.85 * r), cloth, casts=False)
        return
    part.box((-w / 2, -d / 2, 0.0), (w / 2, d / 2, 0.012), border, casts=False)
    if bordered:
        part.box((-w / 2 + 0.12, -d / 2 + 0.12, 0.012), (w / 2 - 0.12, d / 2 - 0.12, 0.016), cloth, casts=False)
