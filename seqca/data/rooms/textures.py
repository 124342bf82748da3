"""Procedural textures: the colour of a surface at (u, v), in metres along the surface.

Every texture takes `blur`, the width in metres of one pixel on the surface, and fades details finer than that
into their mean, so that distant patterns do not alias. Colours are linear RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seqca.data.rooms.random_stream import bit_generator

Colour = tuple[float, float, float]

_SIDE = 256
_WORDS = bit_generator(2209, 2518).random_raw(_SIDE * _SIDE)
_TABLE = ((_WORDS >> 40).astype(np.float32) * np.float32(2.0**-23) - 1).reshape(_SIDE, _SIDE)
_LATTICE = np.pad(_TABLE, (0, 1), mode="wrap").ravel()  # one column and row more: neighbours need no modulo


@dataclass(frozen=True, slots=True)
class Material:
    """How a surface looks.

    `texture` names an entry of TEXTURES; `base` and `accent` are its colours; `scale` is its period in metres;
    `phase` shifts it, so that two things of one material differ. `grain`: the texture follows the longer side
    of each face. `emission` is the light given off, as a multiple of the colour.
    """

    texture: str
    base: Colour
    accent: Colour
    scale: float = 0.2
    phase: float = 0.0
    grain: bool = False
    emission: float = 0.0


class Looks(NamedTuple):
    """The materials at N points, all of one texture: base, accent (3, N), scale, phase (N,), float32."""

    base: np.ndarray
    accent: np.ndarray
    scale: np.ndarray
    phase: np.ndarray


def cell_value(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A fixed random number in [-1, 1) for each integer cell."""
    row = (j.astype(np.int32) & 255) * (_SIDE + 1)
    return _LATTICE[row + (i.astype(np.int32) & 255)]


def noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Smooth value noise of period about 1 with values in [-1, 1)."""
    i, j = np.floor(u), np.floor(v)
    fu, fv = u - i, v - j
    corner = (j.astype(np.int32) & 255) * (_SIDE + 1) + (i.astype(np.int32) & 255)
    a, b = _LATTICE[corner], _LATTICE[corner + 1]
    c, d = _LATTICE[corner + _SIDE + 1], _LATTICE[corner + _SIDE + 2]
    fu = fu * fu * (3.0 - 2.0 * fu)
    top = a + (b - a) * fu
    bottom = c + (d - c) * fu
    return top + (bottom - top) * (fv * fv * (3.0 - 2.0 * fv))


def visible(period: float | np.ndarray, blur: np.ndarray) -> np.ndarray:
    """How much of a pattern of the given period survives one pixel's blur: 1 all, 0 nothing."""
    return np.clip(1.5 - (2.0 / period) * blur, 0.0, 1.0)


def line(distance: np.ndarray, width: float | np.ndarray, blur: np.ndarray) -> np.ndarray:
    """The share of a pixel that a line covers; `distance` from its middle and `width` in metres."""
    return np.clip((0.5 * width - distance) / blur + 0.5, 0.0, np.minimum(width / blur, 1.0))


def wave(position: np.ndarray, period: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """A square wave between -1 and 1, positive in the first half of each period, with edges one pixel wide."""
    phase = position / period
    phase = phase - np.floor(phase)
    triangle = (0.25 - np.abs(phase - 0.5)) * (-2.0 * period)
    return np.clip(triangle / blur, -1.0, 1.0) * visible(period, blur)


def mixture(looks: Looks, share: np.ndarray, shade: np.ndarray | float = 1.0) -> np.ndarray:
    """(3, N): `base` and `accent` mixed by `share` in [0, 1], times `shade`."""
    return (looks.base + (looks.accent - looks.base) * share) * shade


def plain(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """One paint with faint unevenness."""
    return looks.base * (1.0 + 0.05 * noise(u * 2.5, v * 2.5))


def wood(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Long grain along u."""
    coarse = noise(u * 1.3, v * 16.0) * visible(1 / 16, blur)
    fine = noise(u * 4.0, v * 70.0) * visible(1 / 70, blur)
    return mixture(looks, np.clip(0.5 + 0.55 * coarse + 0.2 * fine, 0.0, 1.0))


def planks(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Boards of width `scale` along u, each with a tone of its own and dark joints."""
    length = 9.0 * looks.scale
    across = v / looks.scale
    row = np.floor(across)
    along = u / length + 5.3 * cell_value(row, row)
    column = np.floor(along)
    board = cell_value(column, row)
    grain = noise(u * 1.7 + 9.0 * board, v * 40.0) * visible(1 / 40, blur)
    side = (0.5 - np.abs(across - row - 0.5)) * looks.scale
    end = (0.5 - np.abs(along - column - 0.5)) * length
    joint = line(np.minimum(side, end), 0.008, blur)
    tone = 0.5 + 0.4 * board * visible(looks.scale, blur) + 0.25 * grain
    return mixture(looks, np.clip(tone, 0.0, 1.0), 1.0 - 0.55 * joint)


def checker(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Squares of side `scale`."""
    period = 2 * looks.scale
    return mixture(looks, 0.5 + 0.5 * wave(u, period, blur) * wave(v, period, blur))


def stripes(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Bands across u, one of half a period and a narrow line in the gap."""
    band = 0.5 + 0.5 * wave(u, looks.scale, blur)
    gap = u / looks.scale - 0.75
    gap = np.abs(gap - np.floor(gap + 0.5)) * looks.scale
    return mixture(looks, np.maximum(band, line(gap, 0.12 * looks.scale, blur)))


def weave(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Cloth: coarse mottling and fine threads."""
    mottle = 0.5 + 0.3 * noise(u * 6.0, v * 6.0)
    threads = noise(u * 45.0, v * 45.0) * visible(1 / 45, blur)
    return mixture(looks, np.clip(mottle, 0.0, 1.0) * 0.5, 1.0 + 0.22 * threads)


def dots(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Round dots, every second row shifted by half a period."""
    y = v / looks.scale
    row = np.floor(y)
    x = u / looks.scale + 0.5 * (row % 2.0)
    dx, dy = x - np.floor(x) - 0.5, y - row - 0.5
    inside = np.clip((0.085 - dx * dx - dy * dy) * 40.0 + 0.5, 0.0, 1.0)
    return mixture(looks, 0.25 + (inside - 0.25) * visible(looks.scale, blur))


def bricks(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Running bond, bricks three times as long as high; `accent` is the mortar."""
    height = 0.34 * looks.scale
    y = v / height
    row = np.floor(y)
    x = u / looks.scale + 0.5 * (row % 2.0)
    column = np.floor(x)
    end = (0.5 - np.abs(x - column - 0.5)) * looks.scale
    side = (0.5 - np.abs(y - row - 0.5)) * height
    mortar = line(np.minimum(end, side), 0.014, blur)
    tone = 1.0 + 0.2 * cell_value(column, row) * visible(height, blur)
    return mixture(looks, mortar, tone + 0.12 * noise(u * 30.0, v * 30.0) * visible(1 / 30, blur))


def tiles(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Square tiles of side `scale` with joints of the accent colour."""
    x, y = u / looks.scale, v / looks.scale
    i, j = np.floor(x), np.floor(y)
    gap = (0.5 - np.maximum(np.abs(x - i - 0.5), np.abs(y - j - 0.5))) * looks.scale
    tone = 1.0 + 0.1 * cell_value(i, j) * visible(looks.scale, blur)
    return mixture(looks, line(gap, 0.014, blur), tone)


def marble(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Veins where a warped noise crosses zero."""
    x, y = u / looks.scale, v / looks.scale
    warp = noise(x * 0.8, y * 0.8)
    vein = 1.0 - np.minimum(6.0 * np.abs(noise(x + 1.5 * warp, y - 1.2 * warp)), 1.0)
    return mixture(looks, 0.35 * vein * visible(0.5 * looks.scale, blur), 1.0 + 0.06 * warp)


def leaves(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Mottled foliage."""
    patch = noise(u * 22.0, v * 22.0) * visible(1 / 22, blur)
    return mixture(looks, np.clip(0.5 + 0.8 * patch, 0.0, 1.0), 1.0 + 0.3 * patch)


def canvas(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """A painting about 4·scale wide around (0, 0): horizon, a disc, brush strokes."""
    x, y = u / looks.scale, v / looks.scale
    turn = looks.phase
    horizon = np.clip((y + 0.4 - 0.5 * noise(x * 1.1 + 7.0 * turn, 0.0 * y + 3.1 * turn)) * 12.0, 0.0, 1.0)
    dx, dy = x - (turn % 1.7) + 0.8, y - 0.55
    disc = np.clip((0.2 - dx * dx - dy * dy) * 15.0, 0.0, 1.0)
    strokes = noise(x * 3.0 + 5.0 * turn, y * 9.0)
    share = np.clip(horizon * 0.75 + 0.25 * strokes, 0.0, 1.0)
    image = mixture(looks, share, 1.0 + 0.15 * strokes)
    glow = np.array([[0.85], [0.5], [0.15]], dtype=np.float32)
    return image + (glow - image) * (0.8 * disc)


def sky(looks: Looks, u: np.ndarray, v: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """The view from a window around (0, 0): sky with clouds over hills of the accent colour."""
    turn = looks.phase
    cloud = np.clip(noise(u * 2.0 + 11.0 * turn, v * 5.0) + 0.3 * noise(u * 7.0, v * 15.0), 0.0, 1.0)
    haze = np.clip(0.55 - 0.6 * v, 0.0, 1.0)
    air = looks.base + (1.0 - looks.base) * np.maximum(haze, cloud)
    hill = np.clip((0.25 * noise(u * 1.6 + 5.0 * turn, 0.0 * v + turn) - 0.22 - v) * 30.0, 0.0, 1.0)
    ground = looks.accent * (1.0 + 0.3 * noise(u * 9.0, v * 9.0))
    return air + (ground - air) * hill


Texture = Callable[[Looks, np.ndarray, np.ndarray, np.ndarray], np.ndarray]

TEXTURES: dict[str, Texture] = {
    texture.__name__: texture
    for texture in (
        plain, wood, planks, checker, stripes, weave, dots, bricks, tiles, marble, leaves, canvas, sky,
    )
}  # fmt: skip


_CENTRED = ("canvas", "sky")  # composed around the middle of their face


def colour_at(
    materials: tuple[Material, ...], index: np.ndarray, u: np.ndarray, v: np.ndarray, blur: np.ndarray
) -> np.ndarray:
    """(3, N) linear RGB at N surface points of the materials `index`; u, v, blur: (N,) float32 metres."""
    base = np.array([m.base for m in materials], dtype=np.float32).T
    accent = np.array([m.accent for m in materials], dtype=np.float32).T
    scale = np.array([m.scale for m in materials], dtype=np.float32)
    phase = np.array([m.phase for m in materials], dtype=np.float32)
    names = tuple(TEXTURES)
    texture = np.array([names.index(m.texture) for m in materials], dtype=np.int16)[index]
    order = np.argsort(texture, kind="stable")
    ends = np.cumsum(np.bincount(texture, minlength=len(names)))
    colour = np.empty((3, index.size), dtype=np.float32)
    for name, start, end in zip(names, (0, *ends[:-1]), ends, strict=True):
        if start == end:
            continue
        at = order[start:end]
        of = index[at]
        looks = Looks(base[:, of], accent[:, of], scale[of], phase[of])
        here_u, here_v = u[at], v[at]
        if name not in _CENTRED:
            here_u, here_v = here_u + 3.7 * looks.phase, here_v + 1.9 * looks.phase
        colour[:, at] = TEXTURES[name](looks, here_u, here_v, blur[at])
    return colour
