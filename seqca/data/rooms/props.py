"""Small things that stand on others, and lamps and plants; sizes are metres."""

from __future__ import annotations

from seqca.data.rooms.builder import Spot
from seqca.data.rooms.random_stream import RandomStream
from seqca.data.rooms.style import Style
from seqca.data.rooms.textures import Material

_LEAF = ((0.05, 0.16, 0.05), (0.16, 0.34, 0.09))


def books(spot: Spot, width: float, height: float, style: Style, rng: RandomStream) -> None:
    """A row of books, in blocks of one colour, standing along x."""
    part = spot.object("object")
    x = -width / 2
    while x < width / 2 - 0.05:
        end = min(x + rng.uniform(0.09, 0.22), width / 2)
        tall = height * rng.uniform(0.7, 1.0)
        part.box((x, -0.08, 0.0), (end - 0.004, rng.uniform(0.05, 0.09), tall), style.paint(rng), casts=False)
        x = end


def vase(spot: Spot, height: float, style: Style, rng: RandomStream) -> None:
    """A vase or a bowl."""
    part = spot.object("object")
    clay = style.paint(rng)
    radius = height * rng.uniform(0.25, 0.42)
    part.ball((0.0, 0.0, 0.45 * height), (radius, radius, 0.45 * height), clay)
    if rng.chance(0.6):
        part.column(0.0, 0.0, (0.75 * height, height), (0.35 * radius, 0.5 * radius), clay)
    if rng.chance(0.4):
        leaf = Material("leaves", *_LEAF, phase=rng.random())
        part.ball((0.0, 0.0, 1.3 * height), (1.4 * radius, 1.4 * radius, 0.4 * height), leaf)


def carton(spot: Spot, size: float, style: Style, rng: RandomStream) -> None:
    """A box, slightly turned."""
    part = spot.at(0.0, 0.0, 0.0, rng.rotation(0.3)).object("object")
    w, d, h = (size * rng.uniform(0.6, 1.2) / 2 for _ in range(3))
    part.box((-w, -d, 0.0), (w, d, 2 * h), style.solid(rng) if rng.chance(0.5) else style.cloth(rng))


def ball(spot: Spot, radius: float, style: Style, rng: RandomStream) -> None:
    """A ball on the floor or a table."""
    spot.object("object").ball((0.0, 0.0, radius), (radius, radius, radius), style.cloth(rng))


def plant(spot: Spot, w: float, d: float, h: float, style: Style, rng: RandomStream) -> None:
    """A potted plant: pot, stem, a few leafy balls."""
    part = spot.object("object")
    width = min(w, d)
    pot, radius = style.paint(rng), 0.3 * width
    rim = 0.28 * h
    part.column(0.0, 0.0, (0.0, rim), (0.75 * radius, radius), pot)
    leaf = Material("leaves", *_LEAF, phase=rng.random())
    part.column(0.0, 0.0, (rim, 0.6 * h), (0.025, 0.02), Material("plain", (0.1, 0.06, 0.03), (0.1, 0.06, 0.03)))
    for z, spread in ((0.55, 0.85), (0.72, 1.0), (0.87, 0.6)):
        r = 0.42 * width * spread
        x, y = rng.uniform(-0.08, 0.08) * width, rng.uniform(-0.08, 0.08) * width
        part.ball((x, y, z * h), (r, r, 0.14 * h), leaf)


def _lit(style: Style, rng: RandomStream) -> Material:
    return style.shade(rng, rng.weighted(((0.9, 0.7), (0.0, 0.3))))


def table_lamp(spot: Spot, height: float, style: Style, rng: RandomStream) -> None:
    """A foot and a conical shade."""
    part = spot.object("lamp")
    foot = style.solid(rng)
    radius = 0.34 * height
    part.column(0.0, 0.0, (0.0, 0.03), (0.55 * radius, 0.5 * radius), foot)
    part.column(0.0, 0.0, (0.03, 0.55 * height), (0.025, 0.02), foot, casts=False)
    part.column(0.0, 0.0, (0.5 * height, height), (radius, 0.72 * radius), _lit(style, rng))


def floor_lamp(spot: Spot, w: float, d: float, h: float, style: Style, rng: RandomStream) -> None:
    """A standing lamp with a conical, cylindrical or round shade."""
    part = spot.object("lamp")
    foot, shade, radius = style.solid(rng), _lit(style, rng), min(w, d) / 2
    part.column(0.0, 0.0, (0.0, 0.03), (0.6 * radius, 0.55 * radius), foot)
    part.column(0.0, 0.0, (0.03, h - 0.25), (0.022, 0.018), foot, casts=False)
    if rng.chance(0.3):
        part.ball((0.0, 0.0, h - 0.9 * radius), (radius, radius, 0.9 * radius), shade, casts=False)
    else:
        narrow = rng.uniform(0.7, 1.0) * radius
        part.column(0.0, 0.0, (h - 0.36, h), (radius, narrow), shade, casts=False)


def pendant(spot: Spot, radius: float, drop: float, style: Style, rng: RandomStream) -> None:
    """A lamp hanging `drop` metres below the spot; it throws no shadow, the scene's light sits in it."""
    part = spot.object("lamp")
    shade = style.shade(rng, 0.9)
    cord = style.paint(rng)
    form = rng.pick(("globe", "cone", "drum"))
    height = {"globe": 1.8, "cone": 1.0, "drum": 0.8}[form] * radius
    part.column(0.0, 0.0, (-drop + height, 0.0), (0.012, 0.012), cord, casts=False)
    if form == "globe":
        part.ball((0.0, 0.0, -drop + height / 2), (radius, radius, height / 2), shade, casts=False)
    else:
        top = 0.62 * radius if form == "cone" else radius
        part.column(0.0, 0.0, (-drop, -drop + height), (radius, top), shade, casts=False)


def dress_top(spot: Spot, w: float, d: float, style: Style, rng: RandomStream) -> None:
    """Up to three things on a top of w × d metres, one lamp at the most."""
    places = min(3, max(1, int(w / 0.38)))
    kinds = [("vase", 0.35), ("books", 0.2), ("carton", 0.2), ("lamp", 0.25)]
    for place in range(places):
        if rng.chance(0.4):
            continue
        here = spot.at((place - (places - 1) / 2) * w / places, rng.uniform(0.0, 0.25) * d)
        kind = rng.weighted(kinds)
        if kind == "vase":
            vase(here, rng.uniform(0.18, 0.34), style, rng)
        elif kind == "books":
            books(here, min(0.3, 0.5 * w), 0.24, style, rng)
        elif kind == "carton":
            carton(here, rng.uniform(0.14, 0.24), style, rng)
        else:
            table_lamp(here, rng.uniform(0.36, 0.46), style, rng)
            kinds.pop()
