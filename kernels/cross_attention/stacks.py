"""Maps of one shape as matrices, and the sizes of launches over them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..launch import launch
from ..map_tables import MAX_ENTRIES
from .forward import cross_attention_forward_moments, cross_attention_forward_rows

PROGRAMS = 528
"""Programs of a sum over tokens where there are enough of these: four for each multiprocessor of an H200."""


class TileSizes(NamedTuple):
    """Tokens and channels of a tile, channels that a product takes at a time, and warps."""

    tokens: int
    channels: int
    depth: int
    warps: int


def tile_sizes(padded: int, dtype: torch.dtype) -> TileSizes:
    """Sizes by channels and dtype. Chosen by registers and shared memory (docs/resources.md), not by tuning."""
    if padded <= 64:
        channels = max(16, triton.next_power_of_2(padded))
    else:
        # The larger tile, unless a quarter of it or more would be padding.
        channels = 64 if -(-padded // 64) * 64 * 3 <= 4 * padded else 32
    if dtype == torch.float32:
        return TileSizes(32, min(32, channels), 16, 4)
    # In float16 operands are scaled, which takes registers.
    warps = 8 if dtype == torch.float16 and padded > 64 else 4
    return TileSizes(64, channels, channels if padded <= 64 else 32, warps)


def padded(channels: int) -> int:
    """Columns of a matrix of so many channels: rows begin at multiples of 16 bytes."""
    return -(-channels // 8) * 8


def precision() -> str:
    """How products of float32 are taken."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


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

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means (maps, C) and covariances (maps, C, C), biased, in float64."""
        b, count, c = self.tile_sizes, len(self.rows), self.padded
        some = self.rows[:, : 4 * b.tokens].float()
        variance, mean = torch.var_mean(some, 1, correction=0)
        centres = exact_centres(mean, variance, self.rows.dtype)
        tiles = triton.cdiv(c, b.channels) ** 2
        parts, span = self.span(tiles * count)
        products, sums = centres.new_empty(parts, count, c, c), centres.new_empty(parts, count, c)
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
        launch(cross_attention_forward_moments, (parts, tiles, count), centres.device, arguments, num_warps=b.warps)
        own = slice(self.channels)
        away = sums[..., own].sum(0, dtype=torch.float64) / self.tokens
        mean = away + centres[:, own]
        covariance = products[..., own, own].sum(0, dtype=torch.float64) / self.tokens
        return mean, torch.baddbmm(covariance, away[:, :, None], away[:, None], alpha=-1)


def exact_centres(means: Tensor, variances: Tensor, dtype: torch.dtype) -> Tensor:
    """What is taken from maps before they are multiplied, so that large means do not cancel, in float32.

    In half precision x less the mean would be rounded, and all x between two powers of two alike: that biases products.
    x less a rounded number of about its size is exact (Sterbenz 1974), which is most x where the mean is large beside
    the deviation; elsewhere nothing is taken, as nothing cancels.
    """
    if dtype == torch.float32:
        return means.float()
    return torch.where(means.square() > 16 * variances, means, 0).to(dtype).float()


def split(tokens: int, block: int, programs: int) -> tuple[int, int]:
    """Parts, and tokens of each, of a sum that `programs` programs take for each part."""
    most = triton.cdiv(tokens, block)
    span = triton.cdiv(most, max(1, min(most, PROGRAMS // programs))) * block
    return triton.cdiv(tokens, span), span
