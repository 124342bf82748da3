"""Kernels of the pass forward where a tile has all channels of a block and a column more, in half precision.

A program goes over a span of tokens with a block of the layers of a branch; nothing between the map and its sums leaves
registers. Layers are rounded where the kernels of `forward` write them, by which backward makes them again.
"""

import triton
import triton.language as tl

from ..elementwise import at_least, softplus
from ..products import multiply
from ..tiles import pick
from .tiles import load_transposed_state, matrix, product, state, vector


@triton.jit
def scaled(u, vectors, block, column, C: tl.constexpr):
    """γ/σ u + (β − γ/σ mean): a vector less than `normalised` takes stays in registers, and fp32 has digits for it."""
    scale = tl.broadcast_to(vector(vectors + block * (2 * C), 0, column, C), u.shape)
    shift = tl.broadcast_to(vector(vectors + block * (2 * C), 1, column, C), u.shape)
    return tl.fma(u, scale, shift)


@triton.jit
def first_layer(
    source, weights, vectors, block, token, tokens, column,
    K: tl.constexpr, C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BN(W x) of a block of the layers that read maps."""
    u = product(source, matrix(weights, block, C, K), token, tokens, column, K, C, 1, K, BLOCK_K, PRECISION)
    return scaled(u, vectors, block, column, C)


@triton.jit
def second_layer(hidden, weights, block, column, C: tl.constexpr, PRECISION: tl.constexpr):
    """u = W₂ h of a block."""
    weight = load_transposed_state(matrix(weights, block, C, C), column, column, C)
    return tl.dot(hidden, weight, input_precision=PRECISION)


@triton.jit
def feature(
    source, first, first_vectors, second, second_vectors, hidden, block, token, tokens, column,
    K: tl.constexpr, C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """softplus(BN(W₂ h)): queries or keys; what pads them is not 0."""
    z = first_layer(source, first, first_vectors, hidden, token, tokens, column, K, C, BLOCK_K, PRECISION)
    u = second_layer(at_least(z, 0.0).to(source.dtype.element_ty), second, block, column, C, PRECISION)
    z = scaled(u, second_vectors, block, column, C)
    return softplus(z, False).to(source.dtype.element_ty)


@triton.jit
def cross_attention_forward_fused_statistics(
    rows, first, first_vectors, second, members, means, squares, tokens, span,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Mean of u = W₂ h over a span of tokens, and sum of squared deviations from it.

    Both are summed of deviations from the mean of the first tile, so that a large mean does not cancel.
    """
    column = tl.arange(0, BLOCK_C)
    block = tl.program_id(1)
    branch = block // FEATURES
    hidden = branch * BLOCKS + block % FEATURES
    source = matrix(rows, pick(branch, members, 0), tokens, K)
    begin = tl.program_id(0) * span
    end = tl.minimum(begin + span, tokens)
    token = begin + tl.arange(0, BLOCK_N)
    z = first_layer(source, first, first_vectors, hidden, token, tokens, column, K, C, BLOCK_K, PRECISION)
    u = second_layer(at_least(z, 0.0).to(rows.dtype.element_ty), second, block, column, C, PRECISION)
    centre = tl.sum(tl.where((token < end)[:, None], u, 0.0), 0) / tl.minimum(end - begin, BLOCK_N)
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    of_squares = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for start in tl.range(begin, end, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        z = first_layer(source, first, first_vectors, hidden, token, tokens, column, K, C, BLOCK_K, PRECISION)
        u = second_layer(at_least(z, 0.0).to(rows.dtype.element_ty), second, block, column, C, PRECISION)
        deviation = tl.where((token < end)[:, None], u - centre[None, :], 0.0)
        total += deviation
        of_squares += deviation * deviation
    away = tl.sum(total, 0) / (end - begin)
    place = (block * tl.num_programs(0) + tl.program_id(0)) * C + column
    tl.store(means + place, centre + away, mask=column < C)
    square = tl.sum(of_squares, 0) - (end - begin) * away * away
    tl.store(squares + place, at_least(square, 0.0), mask=column < C)


@triton.jit
def cross_attention_forward_fused_states(
    rows, first, first_vectors, second, second_vectors, members, partials, tokens, area, span, parts, images,
    CHANNELS: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, KEYS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S = Σ v kᵀ and below it z = Σ k, over a span of the pixels of an image."""
    column = tl.arange(0, BLOCK_C)
    branch = tl.program_id(1) // KEYS
    key = tl.program_id(1) % KEYS
    hidden = branch * BLOCKS + FEATURES - KEYS + key
    block = branch * FEATURES + FEATURES - KEYS + key
    image = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    end = image * area + area  # what is beyond is of another image
    source = matrix(rows, pick(branch, members, 0), tokens, K)
    # Values are 0 in the column behind them, in whose place the sum of keys wants 1.
    least = tl.where(column == CHANNELS, 1.0, 0.0)
    total = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    for start in tl.range(part * span, tl.minimum(part * span + span, area), BLOCK_N):
        pixel = start + tl.arange(0, BLOCK_N)
        token = image * area + pixel
        k = feature(
            source, first, first_vectors, second, second_vectors, hidden, block, token, end, column,
            K, C, BLOCK_K, PRECISION,
        )  # fmt: skip
        z = first_layer(source, first, first_vectors, hidden + KEYS, token, end, column, K, C, BLOCK_K, PRECISION)
        v = tl.where((pixel < area)[:, None], at_least(z, least[None, :]), 0.0).to(k.dtype)
        total = tl.dot(tl.trans(v), k, total, input_precision=PRECISION)
    sink = state(partials, tl.program_id(1), image * parts + part, images * parts, CHANNELS)
    mask = (column <= CHANNELS)[:, None] & (column < CHANNELS)[None, :]
    tl.store(sink + column[:, None] * CHANNELS + column[None, :], total, mask=mask)


@triton.jit
def cross_attention_forward_fused_output(
    rows, first, first_vectors, second, second_vectors, members, pairs, sums, attended,
    tokens, area, span, parts, images, eps, CHANNELS: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S q / max(z·q, eps) of a pair over a span of the pixels of an image, as `cross_attention_forward_output`."""
    column = tl.arange(0, BLOCK_C)
    pair = tl.program_id(1)
    image = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    end = image * area + area  # what is beyond is of another image
    branch = pick(pair, pairs, 0)
    query = pick(pair, pairs, 1)
    map = matrix(rows, pick(branch, members, 0), tokens, K)
    source = state(pick(pair, sums, 0), pick(pair, pairs, 3), image, images, CHANNELS)
    matrix_of_state = load_transposed_state(source, column, column, CHANNELS)
    sum_of_keys = tl.load(source + CHANNELS * CHANNELS + column, mask=column < CHANNELS, other=0.0)
    sink = pick(pair, attended, 0)
    channel = tl.cast(image, tl.int64) * pick(pair, attended, 1) + pick(pair, pairs, 2) * CHANNELS + column
    for start in tl.range(part * span, tl.minimum(part * span + span, area), BLOCK_N):
        pixel = start + tl.arange(0, BLOCK_N)
        q = feature(
            map, first, first_vectors, second, second_vectors, branch * BLOCKS + query, branch * FEATURES + query,
            image * area + pixel, end, column, K, C, BLOCK_K, PRECISION,
        )  # fmt: skip
        below = at_least(tl.sum(q.to(tl.float32) * sum_of_keys[None, :], 1), eps)
        o = multiply(q, matrix_of_state, q.dtype, PRECISION) * (1.0 / below)[:, None]
        place = (channel * area)[None, :] + pixel[:, None]
        mask = (pixel < area)[:, None] & (column < CHANNELS)[None, :]
        tl.store(sink + place, o.to(sink.dtype.element_ty), mask=mask)
