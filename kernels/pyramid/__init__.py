"""Maps of several resolutions as operands of a product by tile, and its adjoint: the host's part.

Nothing but the maps is kept between passes: operands are made anew, by copies and products that cost little beside
what is done with them. Channels are padded to a multiple of those of a block, tokens to whole tiles.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from seqca.ops.shared.concatenation import Concatenation

from ..launch import launch
from .geometry import TOKENS, Level, geometry
from .kernels import (
    pyramid_backward_cells,
    pyramid_backward_maps,
    pyramid_forward_operands,
    pyramid_forward_rows,
)

_GRADIENT_BYTES = 2**28
"""Bytes of the gradient of y that exist at a time, about."""

_FAR = 2**31
"""Elements of the right operand from which on offsets into it take 64 bits."""

_FEW_CELLS = 1024
"""Cells of a level in all images, below which the mean of their rounding errors is not left to chance."""


class TileSizes(NamedTuple):
    """Launch parameters of the kernels that make a tile of y."""

    channels: int
    """Channels of y that a program makes at a time."""
    depth: int
    """Rows of the operands that a product takes at a time; so many of the left one stay while channels go by."""
    outputs: int
    """Channels of a prediction that a program makes at a time, at most."""
    warps: int


def tile_sizes(dtype: torch.dtype) -> TileSizes:
    """Sizes by dtype. Chosen by registers and shared memory (docs/resources.md), not by tuning.

    In float32 a product takes few rows also because tensor cores cut off what they add up, towards 0: the errors of a
    long sum have a mean. Sums of products are rounded.
    """
    return TileSizes(32, 16, 16, 8) if dtype == torch.float32 else TileSizes(64, 256, 64, 8)


class Pyramid:
    """The maps of a call, by level, and the operands of their sum."""

    def __init__(self, maps: list[Tensor], order: list[int], weight: Tensor) -> None:
        self.maps = maps
        self.weight = weight
        self.concatenation = Concatenation.of(maps, order)
        self.images = len(maps[0])
        channels = self.concatenation.level_channels()
        self.tile_sizes = tile_sizes(weight.dtype)
        sizes = self.concatenation.sizes
        self.geometry = g = geometry(sizes, self.images, channels[0], weight.dtype, self.tile_sizes.depth)
        self.padded = -(-len(weight) // self.tile_sizes.channels) * self.tile_sizes.channels
        """Channels of y, padded."""
        self.tiles = self.images * g.down * g.across
        exact = self.concatenation.merged(weight, torch.float64)
        self._exact = self.concatenation.by_level(exact)
        self.weights = self.concatenation.by_level(F.pad(exact.to(weight.dtype), (0, self.padded - len(weight))))
        """The weights of the levels, (c_i, padded)."""
        self.levels = [
            weight.new_empty(self.images * h * w, c)
            for (h, w), c in zip(self.concatenation.sizes[1:], channels[1:], strict=True)
        ]
        """The levels after the finest, (cells of all images, c_i)."""
        self.left = weight.new_empty(self.tiles * TOKENS, g.depth)
        self.rows = weight.new_empty(self.tiles, g.depth, dtype=torch.int32)
        for level, rows in enumerate([self.left, *self.levels]):
            for i, part in self._parts(level, rows):
                self._copy(pyramid_forward_rows, maps[i], part, tiled=level == 0)
        self._fill_left()

    @cached_property
    def right(self) -> Tensor:
        """W_0 and below it X_i W_i of all cells of all images, level by level."""
        right = self.weight.new_empty(self.geometry.rows, self.padded)
        right[: len(self.weights[0])] = self.weights[0]
        for x, w, rows in zip(self.levels, self.weights[1:], self._rows(), strict=True):
            torch.mm(x, w, out=right[rows])
        return right

    @cached_property
    def lost(self) -> Tensor:
        """What is common to all tokens of what rounding the operands takes from y, (C,), in fp64.

        That is what sums of columns lose, where a map stands several times, and few cells of a level: the errors of
        many cells have no mean. Cells are taken to stand for equally many pixels, which is nearly so.
        """
        total = self._exact[0].new_zeros(len(self.weight))
        for level, (members, exact) in enumerate(zip(self.concatenation.members, self._exact, strict=True)):
            if level and len(self.levels[level - 1]) <= _FEW_CELLS:
                lost = torch.mm(self.levels[level - 1].double(), exact)
                lost -= self.right[self._rows()[level - 1], : len(total)]
                total += lost.mean(0)
                continue
            lost = exact - self.weights[level][:, : len(total)]
            for i, rows in zip(members, lost.split([self.concatenation.channels[j] for j in members]), strict=True):
                if len(self.concatenation.columns[i]) > 1:
                    total += torch.mv(rows.T, self.maps[i].mean((0, 2, 3), dtype=torch.float32).double())
        return total

    def arguments(self) -> dict[str, Any]:
        """What every kernel takes that makes tiles of the sum."""
        return {
            "left": self.left,
            "rows": self.rows,
            "right": self.right,
            "padded": self.padded,
            **self._sizes(),
            "K": self.geometry.depth,
            "BLOCK_K": self.geometry.block,
            "FAR": self.right.numel() >= _FAR,
            "BLOCK": self.tile_sizes.channels,
            "PRECISION": "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3",
        }

    def _sizes(self) -> dict[str, int]:
        names = ("height", "width", "HIGH", "WIDE", "down", "across")
        return dict(zip(names, self.geometry[:6], strict=True))

    def _rows(self) -> list[slice]:
        """Where the cells of each level after the finest stand in the right operand."""
        return [slice(x.row, x.row + self.images * x.height * x.width) for x in self.geometry.levels]

    def _parts(self, level: int, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The maps of a level, by their index, and their columns of a matrix of its tokens."""
        start = 0
        for i in self.concatenation.members[level]:
            yield i, rows[:, start : start + self.concatenation.channels[i]]
            start += self.concatenation.channels[i]

    def to_tiles(self, x: Tensor, tokens: Tensor) -> None:
        """Write a map (images, channels, H, W) to rows (tiles · TOKENS, channels), 0 beyond the border."""
        self._copy(pyramid_forward_rows, x, tokens, tiled=True)

    def _copy(self, kernel: Any, x: Tensor, rows: Tensor, tiled: bool) -> None:
        g = self.geometry
        channels = 16 if x.dtype == torch.float32 else 32  # 64 bytes of a row; twice as many float32 spill
        arguments = {
            "map": x,
            "rows": rows,
            "tokens": len(rows),
            "channels": x.shape[1],
            "row_stride": rows.stride(0),
            "height": x.shape[2],
            "width": x.shape[3],
            "down": g.down,
            "across": g.across,
            **dict(zip(("from_b", "from_c", "from_y", "from_x"), x.stride(), strict=True)),
            "HIGH": g.tile_height if tiled else 0,
            "WIDE": g.tile_width,
            "ROWS": TOKENS,
            "CHANNELS": channels,
        }
        grid = (triton.cdiv(len(rows), TOKENS), triton.cdiv(x.shape[1], channels))
        launch(kernel, grid, x.device, arguments, num_warps=4)

    def _fill_left(self) -> None:
        levels = [
            (*level[:4], level.slot + part * level.patch_height * level.patch_width, level.row, part)
            for level in self.geometry.levels
            for part in range(level.parts)
        ]
        arguments = {
            "left": self.left,
            "rows": self.rows,
            "levels": tuple(levels),
            "own": len(self.weights[0]),
            "images": self.images,
            **self._sizes(),
            "K": self.geometry.depth,
            "BLOCK": (block := min(self.geometry.block, 64)),
        }
        grid = (self.tiles // self.images, triton.cdiv(self.geometry.depth, block))
        launch(pyramid_forward_operands, grid, self.weight.device, arguments, num_warps=8)

    def chunks(self) -> Iterator[slice]:
        """Images whose gradient of y exists at a time."""
        size = self.tiles * TOKENS * self.padded * self.weight.element_size()
        step = -(-self.images // -(-size // _GRADIENT_BYTES))
        for first in range(0, self.images, step):
            yield slice(first, min(first + step, self.images))

    def adjoint(self, fill: Callable[[Tensor, slice], None]) -> tuple[list[Tensor], Tensor]:
        """Gradients of the maps and of the weight.

        Args:
            fill: writes the gradient of y of some images, (tokens in tiles, padded), zero outside of the images.
        """
        g = self.geometry
        own, channels = len(self.weights[0]), len(self.weight)
        per_image = self.tiles // self.images
        of_right = self.left.new_empty(g.rows, self.padded)
        of_own = self.left.new_empty(len(self.left), own)
        of_weights = []
        for images in self.chunks():
            count = images.stop - images.start
            tokens = slice(images.start * per_image * TOKENS, images.stop * per_image * TOKENS)
            gradient = self.left.new_empty(count * per_image * TOKENS, self.padded)
            fill(gradient, images)
            torch.mm(gradient[:, :channels], self.weights[0][:, :channels].T, out=of_own[tokens])
            left = self.left[tokens]
            # A product by image, so that long sums are taken in parallel, and added in fp32.
            by_image = torch.bmm(left[:, :own].view(count, -1, own).mT, gradient.view(count, -1, self.padded))
            of_weights.append(by_image.sum(0, dtype=torch.float32))
            cells = left[:, own : g.slots].view(count * per_image, TOKENS, g.slots - own)
            patches = torch.bmm(cells.mT, gradient.view(count * per_image, TOKENS, self.padded))
            for level in g.levels:
                self._gather(level, patches, of_right, images)
        results = [x.new_empty(x.shape) for x in self.maps]
        self._give(results, 0, of_own)
        of_weights = [torch.stack(of_weights).sum(0)]
        for i, (x, w, rows) in enumerate(zip(self.levels, self.weights[1:], self._rows(), strict=True), 1):
            gradient = of_right[rows]
            of_weights.append(torch.mm(x.T, gradient).float())
            self._give(results, i, torch.mm(gradient[:, :channels], w[:, :channels].T))
        return results, self.concatenation.unmerged(torch.cat(of_weights)[:, :channels], self.weight)

    def _gather(self, level: Level, patches: Tensor, of_right: Tensor, images: slice) -> None:
        cells = level.height * level.width
        count = (images.stop - images.start) * cells
        first = level.row + images.start * cells
        arguments = {
            "patches": patches,
            "gradient": of_right[first : first + count],
            "count": count,
            **dict(zip(("cells_y", "cells_x", "patch_y", "patch_x"), level[:4], strict=True)),
            "slot": level.slot - len(self.weights[0]),
            "slots": patches.shape[1],
            "parts": level.parts,
            "tiles_y": level.tiles_down,
            "tiles_x": level.tiles_across,
            **self._sizes(),
            "padded": self.padded,
            "CELLS": 32,
            "BLOCK": self.tile_sizes.channels,
        }
        grid = (triton.cdiv(count, 32), self.padded // self.tile_sizes.channels)
        launch(pyramid_backward_cells, grid, self.weight.device, arguments, num_warps=8)

    def _give(self, results: list[Tensor], level: int, gradient: Tensor) -> None:
        """Put the gradient of a level, by tokens, into those of its maps."""
        for i, part in self._parts(level, gradient):
            self._copy(pyramid_backward_maps, results[i], part, tiled=level == 0)
