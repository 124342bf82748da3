"""Kernel of sums of upsampled 1×1 convolutions."""

import triton
import triton.language as tl

from ..pyramid.tiles import operands, pixels, sum_tile


@triton.jit
def scale_aggregation_forward_sum(
    left, rows, right, shift, output, channels, padded, height, width, down, across,
    HIGH: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, FAR: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ up(X_i) W_i + b of a tile."""
    TOKENS: tl.constexpr = HIGH * WIDE
    tile = tl.program_id(0)
    image, y, x, inside = pixels(tile, height, width, down, across, HIGH, WIDE)
    area = tl.cast(height, tl.int64) * width
    sink = output + tl.cast(image, tl.int64) * channels * area + (tl.cast(y, tl.int64) * width + x)[:, None]
    first, offsets = operands(left, rows, tile, padded, TOKENS, K, BLOCK_K, FAR)
    for start in tl.range(0, padded, BLOCK, num_stages=2):
        channel = start + tl.arange(0, BLOCK)
        total = sum_tile(first, offsets, left, rows, right, tile, padded, channel, TOKENS, K, BLOCK_K, FAR, PRECISION)
        total += tl.load(shift + channel)[None, :]
        mask = inside[:, None] & (channel < channels)[None, :]
        tl.store(sink + (channel * area)[None, :], total.to(output.dtype.element_ty), mask=mask)
