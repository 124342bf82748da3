"""The colours and materials of one room, drawn from palettes that all classes share.

Walls, doors, cabinets and lamps take their paint from one list, floors, tables, shelves and beds their wood
from another, sofas, rugs, curtains and cushions their cloth from a third, and within a room from a few
entries only. Colour and texture therefore say little about the class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from seqca.data.rooms.random_stream import RandomStream
from seqca.data.rooms.textures import Colour, Material


def _linear(code: str) -> Colour:
    """Linear RGB of a hexadecimal display colour (display values are square roots here)."""
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red * red, green * green, blue * blue


# (light, dark) of the grain
WOODS: tuple[tuple[Colour, Colour], ...] = tuple(
    (_linear(light), _linear(dark))
    for light, dark in (
        ("d9b98c", "b98f5e"),
        ("b98452", "8f5d33"),
        ("8c5a38", "633a22"),
        ("5f4030", "40291f"),
        ("cfc0a8", "ad9b80"),
        ("a39a8e", "7d746a"),
    )
)

COLOURS: tuple[Colour, ...] = tuple(
    map(
        _linear,
        (
            "e9e4da", "d8d2c4", "cfd6d6", "b9c7cc", "e3cfae", "d8b48a", "c9a3a0", "a9b89a", "7f9a8a", "6f8fa6",
            "4f6d8a", "37485e", "8a8f98", "5c5f66", "b5523f", "94403a", "d1973f", "7a5a86", "4e7a5a", "ede8df",
        ),
    )
)  # fmt: skip

WHITE: Colour = _linear("f2efe8")
BRICK_COLOURS: tuple[Colour, ...] = tuple(map(_linear, ("a5583f", "c9b7a0", "8a8f98", "e0dcd2", "94603f")))


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a."""
    red, green, blue = (x + (y - x) * share for x, y in zip(a, b, strict=True))
    return red, green, blue


@dataclass(frozen=True)
class Style:
    """The few woods and colours of one room; its methods hand out materials made of them."""

    woods: tuple[tuple[Colour, Colour], ...]
    colours: tuple[Colour, ...]
    wall: Material
    floor: Material
    ceiling: Material

    def wood(self, rng: RandomStream) -> Material:
        """A wood with its grain along the longer side."""
        light, dark = rng.pick(self.woods)
        return Material("wood", light, dark, phase=rng.random(), grain=True)

    def paint(self, rng: RandomStream) -> Material:
        """A painted surface."""
        colour = mix(rng.pick(self.colours), WHITE, rng.pick((0.0, 0.0, 0.3, 0.6)))
        return Material("plain", colour, colour, phase=rng.random())

    def solid(self, rng: RandomStream) -> Material:
        """What furniture is made of: mostly wood, otherwise paint, now and then marble."""
        kind = rng.weighted((("wood", 0.57), ("paint", 0.36), ("marble", 0.07)))
        if kind == "wood":
            return self.wood(rng)
        if kind == "paint":
            return self.paint(rng)
        base, accent = rng.sample(self.colours, 2)
        return Material("marble", base, accent, scale=0.25, phase=rng.random())

    def cloth(self, rng: RandomStream) -> Material:
        """Upholstery, bedding, curtains, rugs."""
        texture = rng.weighted((("weave", 0.5), ("stripes", 0.17), ("checker", 0.13), ("dots", 0.1), ("plain", 0.1)))
        base, accent = rng.sample(self.colours, 2)
        scale = rng.uniform(0.12, 0.3)
        return Material(texture, base, accent, scale=scale, phase=rng.random())

    def shade(self, rng: RandomStream, emission: float) -> Material:
        """A lampshade."""
        return replace(self.paint(rng), emission=emission)


def _wall(rng: RandomStream, woods: tuple[tuple[Colour, Colour], ...], colours: tuple[Colour, ...]) -> Material:
    texture = rng.weighted(
        (("plain", 0.46), ("stripes", 0.14), ("bricks", 0.12), ("dots", 0.08), ("planks", 0.1), ("tiles", 0.1))
    )
    phase = rng.random()
    base = mix(rng.pick(colours), WHITE, rng.pick((0.0, 0.3, 0.6, 0.6)))  # most walls are pale
    if texture == "planks":
        return Material("planks", *rng.pick(woods), scale=rng.uniform(0.12, 0.2), phase=phase)
    if texture == "bricks":
        return Material("bricks", rng.pick(BRICK_COLOURS), WHITE, scale=rng.uniform(0.24, 0.4), phase=phase)
    accent = mix(base, rng.pick(colours), 0.25)  # wallpaper is printed tone on tone
    return Material(texture, base, accent, scale=rng.uniform(0.15, 0.4), phase=phase)


def _floor(rng: RandomStream, woods: tuple[tuple[Colour, Colour], ...], colours: tuple[Colour, ...]) -> Material:
    texture = rng.weighted((("planks", 0.45), ("tiles", 0.17), ("checker", 0.14), ("weave", 0.14), ("marble", 0.1)))
    phase = rng.random()
    if texture == "planks":
        return Material("planks", *rng.pick(woods), scale=rng.uniform(0.09, 0.18), phase=phase)
    base, accent = rng.sample(colours, 2)
    scale = {"tiles": 0.35, "checker": 0.35, "weave": 0.2, "marble": 0.6}[texture] * rng.uniform(0.8, 1.4)
    return Material(texture, base, accent, scale=scale, phase=phase)


def draw_style(rng: RandomStream) -> Style:
    """The style of one room."""
    woods = tuple(rng.sample(WOODS, 2))
    colours = tuple(rng.sample(COLOURS, 6))
    ceiling = mix(rng.pick(colours), WHITE, rng.pick((0.5, 0.8, 0.9, 1.0)))
    texture = "planks" if rng.chance(0.12) else "plain"
    return Style(
        woods=woods,
        colours=colours,
        wall=_wall(rng, woods, colours),
        floor=_floor(rng, woods, colours),
        ceiling=(
            Material("planks", *rng.pick(woods), scale=0.16)
            if texture == "planks"
            else Material("plain", ceiling, ceiling)
        ),
    )
