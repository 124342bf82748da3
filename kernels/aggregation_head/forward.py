"""Kernels of the pass forward of an aggregation head: statistics of y = Σ up(X_i) W_i, and predictions."""

import triton
import triton.language as tl

from ..pyramid_tiles import operand_tile, operands, pixels, sum_tile, sum_tokens


@triton.jit
def aggregation_head_forward_operands(
    left, rows, levels, own, height, width, down, across,
    HIGH: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Weights of interpolation and rows of the right operand, of a tile."""
    operand_tile(left, rows, levels, own, height, width, down, across, HIGH, WIDE, K, BLOCK)


@triton.jit
def normalised(y, vectors, padded, channels):
    """y less its mean, and γ/σ times that plus β: in all kernels alike, as the side of the ReLU depends on it."""
    deviation = y - tl.load(vectors + channels)[None, :]
    scale = tl.broadcast_to(tl.load(vectors + padded + channels)[None, :], y.shape)
    shift = tl.broadcast_to(tl.load(vectors + 2 * padded + channels)[None, :], y.shape)
    return deviation, tl.fma(deviation, scale, shift)


@triton.jit
def aggregation_head_forward_statistics(
    left, rows, right, means, squares, counts, tiles, span, padded, height, width, down, across,
    HIGH: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, FAR: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Number of tokens, mean, and squared deviations from it, of y in a run of tiles.

    Each tile is centred on its own mean, and tiles are merged one after the other (Chan et al. 1983).
    """
    TOKENS: tl.constexpr = HIGH * WIDE
    program = tl.program_id(0)
    begin = program * span
    count = tl.zeros([], tl.float32)
    for tile in tl.range(begin, tl.minimum(begin + span, tiles)):
        _, _, _, inside = pixels(tile, height, width, down, across, HIGH, WIDE)
        here = tl.sum(inside.to(tl.float32))
        share = here / (count + here)
        first, offsets = operands(left, rows, tile, padded, TOKENS, K, BLOCK_K, FAR)
        for start in tl.range(0, padded, BLOCK, num_stages=2):
            channels = start + tl.arange(0, BLOCK)
            y = sum_tile(
                first, offsets, left, rows, right, tile, padded, channels, TOKENS, K, BLOCK_K, FAR, PRECISION
            )  # 0 outside of the image
            mean = sum_tokens(y, TOKENS, BLOCK) / here
            deviation = tl.where(inside[:, None], y - mean[None, :], 0.0)
            square = sum_tokens(deviation * deviation, TOKENS, BLOCK)
            sink = tl.cast(program, tl.int64) * padded + channels
            again = (channels < padded) & (tile > begin)
            before = tl.load(means + sink, mask=again, other=0.0)
            square += tl.load(squares + sink, mask=again, other=0.0)
            change = mean - before
            tl.store(means + sink, before + change * share)
            tl.store(squares + sink, square + change * change * (share * count))
        count += here
        tl.debug_barrier()
    tl.store(counts + program, count)


@triton.jit
def aggregation_head_forward_prediction(
    left, rows, right, vectors, last, offset, prediction, outputs, padded, height, width, down, across,
    HIGH: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, FAR: tl.constexpr,
    BLOCK: tl.constexpr, OUTPUTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """V relu(γ/σ (y − mean) + β) + c, of a tile and OUTPUTS of the outputs."""
    TOKENS: tl.constexpr = HIGH * WIDE
    tile = tl.program_id(0)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    first, offsets = operands(left, rows, tile, padded, TOKENS, K, BLOCK_K, FAR)
    total = tl.zeros([TOKENS, OUTPUTS], tl.float32)
    for start in tl.range(0, padded, BLOCK, num_stages=2):
        channels = start + tl.arange(0, BLOCK)
        y = sum_tile(first, offsets, left, rows, right, tile, padded, channels, TOKENS, K, BLOCK_K, FAR, PRECISION)
        _, z = normalised(y, vectors, padded, channels)
        hidden = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL).to(left.dtype.element_ty)
        v = tl.load(last + (output * padded)[:, None] + channels[None, :])
        total = tl.dot(hidden, tl.trans(v), total, input_precision=PRECISION)
    total += tl.load(offset + output)[None, :]
    image, y, x, inside = pixels(tile, height, width, down, across, HIGH, WIDE)
    area = tl.cast(height, tl.int64) * width
    sink = (tl.cast(image, tl.int64) * outputs + output[None, :]) * area + (tl.cast(y, tl.int64) * width + x)[:, None]
    mask = inside[:, None] & (output < outputs)[None, :]
    tl.store(prediction + sink, total.to(prediction.dtype.element_ty), mask=mask)
