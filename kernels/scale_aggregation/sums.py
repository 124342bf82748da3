"""Kernels of sums of upsampled 1×1 convolutions; what they do is in `pyramid_tiles`."""

import triton
import triton.language as tl

from ..pyramid_tiles import copied_rows, gathered_cells, operand_tile, operands, pixels, sum_tile


@triton.jit
def scale_aggregation_forward_rows(
    map, rows, tokens, channels, row_stride, height, width, down, across, from_b, from_c, from_y, from_x,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A map as rows of a matrix."""
    copied_rows(
        map, rows, tokens, channels, row_stride, height, width, down, across, from_b, from_c, from_y, from_x,
        HIGH, WIDE, ROWS, CHANNELS, True,
    )  # fmt: skip


@triton.jit
def scale_aggregation_forward_operands(
    left, rows, levels, own, height, width, down, across,
    HIGH: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Weights of interpolation and rows of the right operand, of a tile."""
    operand_tile(left, rows, levels, own, height, width, down, across, HIGH, WIDE, K, BLOCK)


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


@triton.jit
def scale_aggregation_backward_maps(
    map, rows, tokens, channels, row_stride, height, width, down, across, from_b, from_c, from_y, from_x,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Rows of a matrix as the gradient of a map."""
    copied_rows(
        map, rows, tokens, channels, row_stride, height, width, down, across, from_b, from_c, from_y, from_x,
        HIGH, WIDE, ROWS, CHANNELS, False,
    )  # fmt: skip


@triton.jit
def scale_aggregation_backward_cells(
    patches, gradient, count, cells_y, cells_x, patch_y, patch_x, slot, slots, parts, tiles_y, tiles_x,
    height, width, down, across, padded,
    HIGH: tl.constexpr, WIDE: tl.constexpr, CELLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of cells of a level after the finest."""
    gathered_cells(
        patches, gradient, count, cells_y, cells_x, patch_y, patch_x, slot, slots, parts, tiles_y, tiles_x,
        height, width, down, across, padded, HIGH, WIDE, CELLS, BLOCK,
    )  # fmt: skip
