"""Kernels of the pass backward of an aggregation head: sums over all tokens, then the gradient of y."""

import triton
import triton.language as tl

from ..pyramid.tiles import GROUP, operands, pixels, sum_tile, sum_tokens
from .forward import normalised


@triton.jit
def load_gradient(
    grad, tile, output, outputs, height, width, down, across, from_b, from_c, from_y, from_x,
    HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradient of the prediction of a tile, (tokens, outputs), 0 outside of the image."""
    image, y, x, inside = pixels(tile, height, width, down, across, HIGH, WIDE)
    token = tl.cast(image, tl.int64) * from_b + tl.cast(y, tl.int64) * from_y + tl.cast(x, tl.int64) * from_x
    mask = inside[:, None] & (output < outputs)[None, :]
    return tl.load(grad + token[:, None] + (tl.cast(output, tl.int64) * from_c)[None, :], mask=mask, other=0.0)


@triton.jit
def into_hidden(
    some, grad, last, tile, channels, outputs, padded, height, width, down, across, from_b, from_c, from_y, from_x,
    HIGH: tl.constexpr, WIDE: tl.constexpr, OUTPUTS: tl.constexpr, MANY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g V of a tile and some channels, in fp32; `some` is the gradient of the outputs where they are no more."""
    output = tl.arange(0, OUTPUTS)
    if MANY:
        total = tl.zeros([HIGH * WIDE, channels.shape[0]], tl.float32)
        for start in tl.range(0, outputs, OUTPUTS, num_stages=1):
            g = load_gradient(
                grad, tile, start + output, outputs, height, width, down, across, from_b, from_c, from_y, from_x,
                HIGH, WIDE,
            )  # fmt: skip
            v = tl.load(last + ((start + output) * padded)[:, None] + channels[None, :])
            total = tl.dot(g, v, total, input_precision=PRECISION)
    else:
        v = tl.load(last + (output * padded)[:, None] + channels[None, :])
        total = tl.dot(some, v, input_precision=PRECISION)
    return total


@triton.jit
def _add(sink, x, mask, again):
    """Add to what this program has written there before, if it has."""
    tl.store(sink, x + tl.load(sink, mask=mask & again, other=0.0), mask=mask)


@triton.jit
def aggregation_head_backward_sums(
    left, rows, right, vectors, last, grad, sums, of_last, tiles, span, outputs, padded, height, width, down, across,
    from_b, from_c, from_y, from_x,
    HIGH: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, FAR: tl.constexpr,
    BLOCK: tl.constexpr, OUTPUTS: tl.constexpr, MANY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Over a run of tiles, with s = [h > 0] g V: Σ s, Σ s (y − mean), and of OUTPUTS of the outputs Σ gᵀ h."""
    TOKENS: tl.constexpr = HIGH * WIDE
    GROUPS: tl.constexpr = TOKENS // GROUP
    program = tl.program_id(0)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    begin = program * span
    for tile in tl.range(begin, tl.minimum(begin + span, tiles)):
        first, offsets = operands(left, rows, tile, padded, TOKENS, K, BLOCK_K, FAR)
        some = load_gradient(
            grad, tile, output, outputs, height, width, down, across, from_b, from_c, from_y, from_x, HIGH, WIDE
        )
        for start in tl.range(0, padded, BLOCK, num_stages=1, disable_licm=True):
            channels = start + tl.arange(0, BLOCK)
            y = sum_tile(first, offsets, left, rows, right, tile, padded, channels, TOKENS, K, BLOCK_K, FAR, PRECISION)
            deviation, z = normalised(y, vectors, padded, channels)
            hidden = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL).to(left.dtype.element_ty)
            products = tl.trans(tl.dot(tl.trans(hidden), some, input_precision=PRECISION))
            row = of_last + tl.cast(program, tl.int64) * padded * outputs
            place = row + (output * padded)[:, None] + channels[None, :]
            _add(place, products, (output < outputs)[:, None] & (channels < padded)[None, :], tile > begin)
            s = into_hidden(
                some, grad, last, tile, channels, outputs, padded, height, width, down, across,
                from_b, from_c, from_y, from_x, HIGH, WIDE, OUTPUTS, MANY, PRECISION,
            )  # fmt: skip
            s = tl.where(z > 0, s, 0.0)
            # Programs of the same tiles and other outputs have the same sums, each in a place of its own.
            slot = tl.cast(tl.program_id(1) * tl.num_programs(0) + program, tl.int64)
            sink = sums + slot * (2 * GROUPS * padded) + (tl.arange(0, GROUPS) * padded)[:, None] + channels[None, :]
            mask = tl.broadcast_to((channels < padded)[None, :], [GROUPS, BLOCK])
            _add(sink, sum_tokens(s, TOKENS, BLOCK), mask, tile > begin)
            _add(sink + GROUPS * padded, sum_tokens(s * deviation, TOKENS, BLOCK), mask, tile > begin)
        tl.debug_barrier()


@triton.jit
def aggregation_head_backward_tokens(
    left, rows, right, vectors, last, grad, gradient, start_tile, outputs, padded, height, width, down, across,
    from_b, from_c, from_y, from_x,
    HIGH: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, FAR: tl.constexpr,
    BLOCK: tl.constexpr, OUTPUTS: tl.constexpr, MANY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of y of a tile: γ/σ s less a constant and a multiple of y − mean, by channel."""
    TOKENS: tl.constexpr = HIGH * WIDE
    tile = start_tile + tl.program_id(0)
    first, offsets = operands(left, rows, tile, padded, TOKENS, K, BLOCK_K, FAR)
    some = load_gradient(
        grad, tile, tl.arange(0, OUTPUTS), outputs, height, width, down, across, from_b, from_c, from_y, from_x,
        HIGH, WIDE,
    )  # fmt: skip
    _, _, _, inside = pixels(tile, height, width, down, across, HIGH, WIDE)
    token = tl.arange(0, TOKENS)
    sink = gradient + tl.cast(tl.program_id(0), tl.int64) * TOKENS * padded
    for start in tl.range(0, padded, BLOCK, num_stages=2, disable_licm=True):
        channels = start + tl.arange(0, BLOCK)
        y = sum_tile(first, offsets, left, rows, right, tile, padded, channels, TOKENS, K, BLOCK_K, FAR, PRECISION)
        deviation, z = normalised(y, vectors, padded, channels)
        scale = tl.load(vectors + padded + channels)[None, :]
        constant = tl.load(vectors + 3 * padded + channels)[None, :]
        slope = tl.load(vectors + 4 * padded + channels)[None, :]
        rest = constant + slope * deviation
        s = into_hidden(
            some, grad, last, tile, channels, outputs, padded, height, width, down, across,
            from_b, from_c, from_y, from_x, HIGH, WIDE, OUTPUTS, MANY, PRECISION,
        )  # fmt: skip
        d = tl.where(z > 0, s, 0.0) * scale - rest
        d = tl.where(inside[:, None], d, 0.0)
        tl.store(sink + (token * padded)[:, None] + channels[None, :], d.to(gradient.dtype.element_ty))
