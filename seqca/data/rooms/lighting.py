"""The lights of a scene, given its lamps and windows."""

from __future__ import annotations

import math

from seqca.data.rooms.builder import Spot
from seqca.data.rooms.primitives import Vector
from seqca.data.rooms.random_stream import RandomStream
from seqca.data.rooms.scene import Light, Sun
from seqca.data.rooms.textures import Colour

LampList = list[Vector]
WindowList = list[tuple[Spot, tuple[float, float, float, float]]]


def draw_lights(
    lamps: LampList, windows: WindowList, rng: RandomStream
) -> tuple[tuple[Light, ...], Sun | None, Colour]:
    """Lights, sun and ambient colour: lamps at night, windows and now and then the sun by day, or both.

    `windows` are rectangles (low, sill, high, top) on the wall whose spot comes with them.
    """
    day = bool(windows) and rng.chance(0.7)
    lights: list[Light] = []
    warm = rng.uniform(0.0, 1.0)
    if not day or rng.chance(0.4):
        strength = rng.uniform(1.6, 2.6) * (0.5 if day else 1.0)
        colour = (strength, strength * (1.0 - 0.18 * warm), strength * (1.0 - 0.4 * warm))
        lights += [Light(lamp, colour, 0.12) for lamp in lamps]
    sun = None
    if day:
        for spot, (low, sill, high, top) in windows:
            strength = rng.uniform(1.4, 2.2) * math.sqrt((high - low) * (top - sill))
            centre = spot.world(0.5 * (low + high), 0.35, 0.5 * (sill + top) + 0.1)
            lights.append(Light(centre, (0.92 * strength, strength, 1.1 * strength), 0.3))
        if rng.chance(0.6):
            sun = _sun(*rng.pick(windows), rng)
    level = rng.uniform(0.22, 0.42)
    ambient = (level * (1.0 if day else 1.05), level, level * (1.06 if day else 0.9))
    return tuple(lights), sun, ambient


def _sun(spot: Spot, window: tuple[float, float, float, float], rng: RandomStream) -> Sun:
    low, sill, high, top = window
    along, up = rng.uniform(-0.9, 0.9), rng.uniform(0.45, 0.9)
    norm = math.sqrt(1.0 + along * along + up * up)
    cos, sin = spot.turn
    towards = ((cos * along + sin) / norm, (sin * along - cos) / norm, up / norm)  # out of the wall is -y
    corners = spot.world(low, 0.0, sill), spot.world(high, 0.0, top)
    axis = 1 if sin == 0.0 else 0
    (x0, x1), (y0, y1), (z0, z1) = (sorted(pair) for pair in zip(*corners, strict=True))
    strength = rng.uniform(3.0, 5.0)
    return Sun(towards, (strength, 0.9 * strength, 0.72 * strength), axis, (x0, y0, z0), (x1, y1, z1))
