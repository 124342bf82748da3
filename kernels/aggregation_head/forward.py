"""Kernels of the pass forward of an aggregation head: statistics of y = Σ up(X_i) W_i, and predictions."""

import triton
import triton.language as tl

from ..pyramid.tiles import GROUP, operands, pixels, sum_tile, sum_tokens


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
    """Number of tokens, mean, and squared deviations from it, of y in a run of tiles, by groups of tokens of a tile.

    Each group is centred on its own mean, and tiles are merged one after the other (Chan et al. 1983).
    """
    TOKENS: tl.constexpr = HIGH * WIDE
    GROUPS: tl.constexpr = TOKENS // GROUP
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    begin = tl.program_id(0) * span
    count = tl.zeros([GROUPS], tl.float32)
    for tile in tl.range(begin, tl.minimum(begin + span, tiles)):
        _, _, _, inside = pixels(tile, height, width, down, across, HIGH, WIDE)
        here = tl.sum(tl.reshape(inside.to(tl.float32), [GROUPS, GROUP]), 1)
        share = here / tl.maximum(count + here, 1.0)
        first, offsets = operands(left, rows, tile, padded, TOKENS, K, BLOCK_K, FAR)
        for start in tl.range(0, padded, BLOCK, num_stages=2):
            channels = start + tl.arange(0, BLOCK)
            # 0 outside of the image
            y = sum_tile(first, offsets, left, rows, right, tile, padded, channels, TOKENS, K, BLOCK_K, FAR, PRECISION)
            mean = sum_tokens(y, TOKENS, BLOCK) / tl.maximum(here, 1.0)[:, None]
            all_means = tl.broadcast_to(mean[:, None, :], [GROUPS, GROUP, BLOCK])
            deviation = y - tl.reshape(all_means, [TOKENS, BLOCK])
            deviation = tl.where(inside[:, None], deviation, 0.0)
            square = sum_tokens(deviation * deviation, TOKENS, BLOCK)
            sink = tl.cast(group, tl.int64)[:, None] * padded + channels[None, :]
            again = (channels < padded)[None, :] & (tile > begin)
            before = tl.load(means + sink, mask=again, other=0.0)
            square += tl.load(squares + sink, mask=again, other=0.0)
            change = mean - before
            tl.store(means + sink, before + change * share[:, None])
            tl.store(squares + sink, square + change * change * (share * count)[:, None])
        count += here
        tl.debug_barrier()
    tl.store(counts + group, count)


@triton.jit
def aggregation_head_forward_prediction(
    left, rows, right, vectors, last, offset, prediction, outputs, padded, height, width, down, across,
    HIGH: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, FAR: tl.constexpr,
    BLOCK: tl.constexpr, OUTPUTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """V relu(γ/σ (y − mean) + β) + c, of a tile and OUTPUTS of the outputs."""
    TOKENS: tl.constexpr = HIGH * WIDE
    # Of all pixels alike, what tensor cores cut off of a sum would be seen: no mean is taken from predictions.
    LAST: tl.constexpr = "ieee" if PRECISION == "tf32x3" else PRECISION
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
        total = tl.dot(hidden, tl.trans(v), total, input_precision=LAST)
    total += tl.load(offset + output)[None, :]
    image, y, x, inside = pixels(tile, height, width, down, across, HIGH, WIDE)
    area = tl.cast(height, tl.int64) * width
    sink = (tl.cast(image, tl.int64) * outputs + output[None, :]) * area + (tl.cast(y, tl.int64) * width + x)[:, None]
    mask = inside[:, None] & (output < outputs)[None, :]
    tl.store(prediction + sink, total.to(prediction.dtype.element_ty), mask=mask)
