"""Tiles of the images of a call, and where what belongs to each level stands in the operands."""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton

from .tiles import GROUP

TOKENS = 128
"""Pixels of a tile."""

GROUPS = TOKENS // GROUP.value
"""Sums over the tokens of a tile are left in so many parts."""


class Level(NamedTuple):
    """A level after the finest: its size, the cells that a tile touches at most, where it stands in the operands."""

    height: int
    width: int
    patch_height: int
    patch_width: int
    tiles_down: int
    """Rows of tiles that touch a cell, at most."""
    tiles_across: int
    slot: int
    row: int
    parts: int
    """Two where weights are not exact in the dtype: the second has what rounding has left."""

    @property
    def slots(self) -> int:
        """Columns of the left operand."""
        return self.parts * self.patch_height * self.patch_width


class Geometry(NamedTuple):
    """Tiles of the images and shapes of the operands."""

    height: int
    width: int
    tile_height: int
    tile_width: int
    down: int
    across: int
    levels: tuple[Level, ...]
    slots: int
    """Columns of the left operand that mean something."""
    depth: int
    """All columns of the left operand, in blocks of `block`."""
    block: int
    rows: int
    """Rows of the right operand."""


def _touched(cells: int, pixels: int, length: int) -> tuple[int, int]:
    """Along an axis: cells that a run of so many pixels touches at most, and runs that touch a cell."""
    unit = 2 * pixels

    def position(pixel: int) -> int:
        return min(max((2 * pixel + 1) * cells - pixels, 0), unit * (cells - 1))

    ends = [(first, min(first + length, pixels) - 1) for first in range(0, pixels, length)]
    spans = [(position(first) // unit, -(-position(last) // unit)) for first, last in ends]
    runs = [0] * cells
    for first, last in spans:
        for cell in range(first, last + 1):
            runs[cell] += 1
    return max(last - first + 1 for first, last in spans), max(runs)


def _exact(cells: tuple[int, int], pixels: tuple[int, int], dtype: torch.dtype) -> bool:
    """Whether products of two weights m/(2·ratio), m < 2·ratio, have no more bits than the dtype."""
    ratios = [p // c for p, c in zip(pixels, cells, strict=True)]
    if any(r * c != p or r & (r - 1) for r, c, p in zip(ratios, cells, pixels, strict=True)):
        return False
    bits = 8 if dtype == torch.bfloat16 else 11
    return (2 * ratios[0] - 1) * (2 * ratios[1] - 1) <= 2**bits


@lru_cache(maxsize=256)
def geometry(sizes: tuple[tuple[int, int], ...], images: int, own: int, dtype: torch.dtype, most: int) -> Geometry:
    """The tiles of images and the operands of their levels.

    Args:
        sizes: of the levels, the finest first.
        images: their number.
        own: channels of the finest level.
        dtype: of the operands.
        most: rows of the operands that one product takes; where there are more, products take at most 64 each.
    """
    (height, width), *coarse = sizes
    tile_height = min(8, triton.next_power_of_2(height))
    tile_width = TOKENS // tile_height
    levels = []
    slot = row = own
    for size in coarse:
        parts = 1 if dtype == torch.float32 or _exact(size, (height, width), dtype) else 2
        touched = (_touched(size[0], height, tile_height), _touched(size[1], width, tile_width))
        patch, runs = zip(*touched, strict=True)
        levels.append(Level(*size, *patch, *runs, slot, row, parts))
        slot += levels[-1].slots
        row += images * size[0] * size[1]
    block = max(16, triton.next_power_of_2(slot)) if slot <= most else min(most, 64)
    down, across = -(-height // tile_height), -(-width // tile_width)
    depth = -(-slot // block) * block
    return Geometry(height, width, tile_height, tile_width, down, across, tuple(levels), slot, depth, block, row)
