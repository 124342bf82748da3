"""Maps of one shape as matrices, and the sizes of launches over them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..launch import launch
from ..map_tables import MAX_ENTRIES
from .forward import cross_attention_forward_moments, cross_attention_forward_rows
from .forward_sums import cross_attention_forward_centres, cross_attention_forward_covariances

PROGRAMS = 528
"""Programs of a sum over tokens where there are enough of these: four for each multiprocessor of an H200."""


class TileSizes(NamedTuple):
    """Tokens and channels of a tile, channels that a product takes at a time, and warps."""

    tokens: int
    channels: int
    depth: int
    warps: int
    fewer_warps: int
    """Of kernels in which all warps wait for each other at every tile, and tiles are many."""


def tile_sizes(padded: int, dtype: torch.dtype) -> TileSizes:
    """Sizes by channels and dtype. Chosen by registers and shared memory (docs/resources.md), warps on an H200."""
    if padded <= 64:
        channels = max(16, triton.next_power_of_2(padded))
    else:
        # The larger tile, unless a quarter of it or more would be padding.
        channels = 64 if -(-padded // 64) * 64 * 3 <= 4 * padded else 32
    if dtype == torch.float32:
        return TileSizes(32, min(32, channels), 16, 4, 4)
    # In float16 operands are scaled, which takes registers.
    warps = 8 if dtype == torch.float16 and padded > 64 else 4
    return TileSizes(64, channels, channels if padded <= 64 else 32, warps, 2)


def padded(channels: int) -> int:
    """Columns of a matrix of so many channels: rows begin at multiples of 16 bytes."""
    return -(-channels // 8) * 8


def precision() -> str:
    """How products of float32 are taken."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


class MapMoments(NamedTuple):
    """Means and below them covariances of maps, biased, in float64."""

    values: Tensor
    """(maps, C + 1, C)."""
    tokens: int | Tensor
    """Of all processes together."""

    @property
    def mean(self) -> Tensor:
        """(maps, C)."""
        return self.values[:, 0]

    @property
    def covariance(self) -> Tensor:
        """(maps, C, C)."""
        return self.values[:, 1:]


class Stack:
    """Maps of one shape as matrices (maps, tokens, channels padded)."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        first = maps[0]
        self.images, self.channels, self.height, self.width = first.shape
        self.area = self.height * self.width
        self.tokens = self.images * self.area
        self.padded = padded(self.channels)
        self.rows = first.new_empty(len(maps), self.tokens, self.padded)
        self.tile_sizes = b = tile_sizes(self.padded, first.dtype)
        for start in range(0, len(maps), MAX_ENTRIES):
            part = maps[start : start + MAX_ENTRIES]
            arguments = {
                "maps": tuple((x, *x.stride()) for x in part),
                "rows": self.rows[start:],
                "tokens": self.tokens,
                "channels": self.channels,
                "height": self.height,
                "width": self.width,
                "C": self.padded,
                "BLOCK_N": b.tokens,
                "BLOCK_C": b.channels,
            }
            grid = (triton.cdiv(self.tokens, b.tokens), triton.cdiv(self.padded, b.channels), len(part))
            launch(cross_attention_forward_rows, grid, first.device, arguments, num_warps=b.warps)

    def span(self, programs: int) -> tuple[int, int]:
        """Parts of the tokens where there are so many programs for each of them, and tokens of a part."""
        return split(self.tokens, self.tile_sizes.tokens, programs)

    def moments(self) -> Tensor:
        """Means and below them covariances, see `MapMoments`."""
        b, count, c = self.tile_sizes, len(self.rows), self.padded
        device = self.rows.device
        centres = self.rows.new_empty(count, c, dtype=torch.float32)
        launch(
            cross_attention_forward_centres, (triton.cdiv(c, b.channels), count), device,
            {
                "rows": self.rows, "centres": centres, "tokens": self.tokens, "some": min(self.tokens, 4 * b.tokens),
                "C": c, "BLOCK_N": b.tokens, "BLOCK_C": b.channels,
            },
            num_warps=4,
        )  # fmt: skip
        tiles = triton.cdiv(c, b.channels) ** 2
        parts, span = self.span(tiles * count)
        # A layer may see little of a map's variance. The digits that half precision has of it fp32 sums keep.
        dtype = torch.float64 if self.rows.dtype == torch.float32 else torch.float32
        products, sums = (centres.new_empty(parts, count, *size, dtype=dtype) for size in [(c, c), (c,)])
        arguments = {
            "rows": self.rows,
            "centres": centres,
            "products": products,
            "sums": sums,
            "tokens": self.tokens,
            "span": span,
            "C": c,
            "BLOCK_N": b.tokens,
            "BLOCK_C": b.channels,
            "PRECISION": precision(),
        }
        launch(cross_attention_forward_moments, (parts, tiles, count), device, arguments, num_warps=b.fewer_warps)
        moments = centres.new_empty(count, self.channels + 1, self.channels, dtype=torch.float64)
        launch(
            cross_attention_forward_covariances, (triton.cdiv(self.channels, 16) ** 2, count), device,
            {
                "products": products, "sums": sums, "centres": centres, "moments": moments, "parts": parts,
                "tokens": self.tokens, "CHANNELS": self.channels, "C": c, "BLOCK": 16,
            },
            num_warps=4,
        )  # fmt: skip
        return moments


def split(tokens: int, block: int, programs: int) -> tuple[int, int]:
    """Parts, and tokens of each, of a sum that `programs` programs take for each part."""
    most = triton.cdiv(tokens, block)
    span = triton.cdiv(most, max(1, min(most, PROGRAMS // programs))) * block
    return triton.cdiv(tokens, span), span
