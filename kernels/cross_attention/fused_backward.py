"""Kernels of the pass backward where those of `fused_forward` make its hidden layers, queries, keys and values.

They make them again, by the same code; of what lies between maps and sums only gradients of norms are written, those of
a first layer in place of those of the second behind it.
"""

import triton
import triton.language as tl

from ..elementwise import at_least
from ..products import add_products, multiply
from ..tiles import pick
from .backward_attention import load_gradient, through_softplus
from .fused_forward import feature, first_layer, scaled, second_layer
from .tiles import (
    load_rows,
    load_state,
    load_transposed_state,
    matrix,
    state,
    store_rows,
    vector,
)


@triton.jit
def _with_one(z, column, CHANNELS: tl.constexpr):
    """relu(z) with 1 in the column behind the channels, where W₂ is 0: Σ s hᵀ has Σ s beside it."""
    return tl.where((column == CHANNELS)[None, :], 1.0, at_least(z, 0.0))


@triton.jit
def _store_sums(total, sums, block, column, CHANNELS: tl.constexpr):
    """Write what a program has summed of a block, (C, C + 1)."""
    place = tl.cast(block, tl.int64) * tl.num_programs(0) + tl.program_id(0)
    sink = sums + place * (CHANNELS * (CHANNELS + 1)) + column[:, None] * (CHANNELS + 1) + column[None, :]
    tl.store(sink, total, mask=(column < CHANNELS)[:, None] & (column <= CHANNELS)[None, :])


@triton.jit
def cross_attention_backward_fused_states(
    rows, first, first_vectors, second, second_vectors, members, pairs, sums, grads, weights, partials,
    tokens, area, width, span, parts, images, eps, CHANNELS: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of S and z of a pair over a span of the pixels of an image; `weights` are 1/d and −g·o."""
    column = tl.arange(0, BLOCK_C)
    pair = tl.program_id(1)
    image = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    end = image * area + area
    branch = pick(pair, pairs, 0)
    query = pick(pair, pairs, 1)
    map = matrix(rows, pick(branch, members, 0), tokens, K)
    source = state(pick(pair, sums, 0), pick(pair, pairs, 3), image, images, CHANNELS)
    channel = pick(pair, pairs, 2) * CHANNELS
    matrix_of_state = load_transposed_state(source, column, column, CHANNELS)
    sink = weights + 2 * tl.cast(pair, tl.int64) * tokens
    total = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    for start in tl.range(part * span, tl.minimum(part * span + span, area), BLOCK_N):
        pixel = start + tl.arange(0, BLOCK_N)
        known = pixel < area
        token = image * area + pixel
        g = load_gradient(grads, branch, image, pixel, known, channel + column, channel + CHANNELS, width)
        q = feature(
            map, first, first_vectors, second, second_vectors, branch * BLOCKS + query, branch * FEATURES + query,
            token, end, column, K, C, BLOCK_K, PRECISION,
        )  # fmt: skip
        # Read anew: kept along columns, each of a few threads would hold all of it.
        of_keys = tl.load(source + CHANNELS * CHANNELS + column, mask=column < CHANNELS, other=0.0)
        below = tl.sum(q.to(tl.float32) * of_keys[None, :], 1)
        inverse = 1.0 / at_least(below, eps)
        o = multiply(q, matrix_of_state, q.dtype, PRECISION) * inverse[:, None]
        last = tl.where(below >= eps, -tl.sum(o * g.to(tl.float32), 1), 0.0)
        tl.store(sink + 2 * token, inverse, mask=known)
        tl.store(sink + 2 * token + 1, last, mask=known)
        weighted = q.to(tl.float32) * inverse[:, None]
        total = add_products(total, g, last, weighted, column, CHANNELS, q.dtype, PRECISION)
    at = state(partials, pair, image * parts + part, images * parts, CHANNELS)
    mask = (column <= CHANNELS)[:, None] & (column < CHANNELS)[None, :]
    tl.store(at + column[:, None] * CHANNELS + column[None, :], total, mask=mask)


@triton.jit
def cross_attention_backward_fused_queries(
    rows, first, first_vectors, second, second_vectors, members, gradients, sums_of_norm, blocks, pairs, sums, grads,
    weights, tokens, area, width, span, parts, images, CHANNELS: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, QUERIES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient s of the norm of a block of queries, Σ (Sᵀ g − (g·o) z)/d over its pairs, through softplus.

    Beside it Σ s hᵀ and, in a column more, Σ s over a span of the pixels of an image; `blocks` has rows (first pair,
    pairs).
    """
    column = tl.arange(0, BLOCK_C)
    branch = tl.program_id(1) // QUERIES
    query = tl.program_id(1) % QUERIES
    block = branch * FEATURES + query
    hidden = branch * BLOCKS + query
    image = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    end = image * area + area
    map = matrix(rows, pick(branch, members, 0), tokens, K)
    sink = matrix(gradients, hidden, tokens, C)
    begin = pick(tl.program_id(1), blocks, 0)
    behind = begin + pick(tl.program_id(1), blocks, 1)
    total = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    for start in tl.range(part * span, tl.minimum(part * span + span, area), BLOCK_N):
        pixel = start + tl.arange(0, BLOCK_N)
        known = pixel < area
        token = image * area + pixel
        d = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
        for pair in tl.range(begin, behind):
            source = state(pick(pair, sums, 0), pick(pair, pairs, 3), image, images, CHANNELS)
            channel = pick(pair, pairs, 2) * CHANNELS
            g = load_gradient(grads, branch, image, pixel, known, channel + column, channel + CHANNELS, width)
            of_keys = tl.load(source + CHANNELS * CHANNELS + column, mask=column < CHANNELS, other=0.0)
            at = weights + 2 * (tl.cast(pair, tl.int64) * tokens + token)
            inverse = tl.load(at, mask=known, other=0.0)
            last = tl.load(at + 1, mask=known, other=0.0)
            weighted = multiply(g, load_state(source, column, column, CHANNELS, CHANNELS), g.dtype, PRECISION)
            d += (weighted + last[:, None] * of_keys[None, :]) * inverse[:, None]
        h = first_layer(map, first, first_vectors, hidden, token, end, column, K, C, BLOCK_K, PRECISION)
        h = _with_one(h, column, CHANNELS).to(gradients.dtype.element_ty)
        u = second_layer(h, second, block, column, C, PRECISION)
        z = scaled(u, second_vectors, block, column, C)
        s = through_softplus(d, z, known[:, None] & (column < CHANNELS)[None, :]).to(gradients.dtype.element_ty)
        store_rows(sink, token, known, column, s, C)
        total = tl.dot(tl.trans(s), h, total, input_precision=PRECISION)
    _store_sums(total, sums_of_norm, block, column, CHANNELS)


@triton.jit
def cross_attention_backward_fused_keys(
    rows, first, first_vectors, second, second_vectors, members, gradients, sums_of_norm, states,
    tokens, area, span, parts, images, CHANNELS: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, KEYS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the norm of a block of keys, dSᵀ v + dz through softplus, and sums as of queries.

    `states` has rows (dS, index).
    """
    column = tl.arange(0, BLOCK_C)
    branch = tl.program_id(1) // KEYS
    key = tl.program_id(1) % KEYS
    hidden = branch * BLOCKS + FEATURES - KEYS + key
    block = branch * FEATURES + FEATURES - KEYS + key
    image = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    end = image * area + area
    map = matrix(rows, pick(branch, members, 0), tokens, K)
    source = state(pick(tl.program_id(1), states, 0), pick(tl.program_id(1), states, 1), image, images, CHANNELS)
    d_state = load_state(source, column, column, CHANNELS, CHANNELS)
    sink = matrix(gradients, hidden, tokens, C)
    total = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    begin = image * area + part * span
    for start in tl.range(begin, tl.minimum(begin + span, end), BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        known = token < end
        h = first_layer(map, first, first_vectors, hidden, token, end, column, K, C, BLOCK_K, PRECISION)
        h = _with_one(h, column, CHANNELS).to(gradients.dtype.element_ty)
        u = second_layer(h, second, block, column, C, PRECISION)
        z = scaled(u, second_vectors, block, column, C)
        v = first_layer(map, first, first_vectors, hidden + KEYS, token, end, column, K, C, BLOCK_K, PRECISION)
        v = at_least(v, 0.0).to(h.dtype)
        d = multiply(v, d_state, v.dtype, PRECISION)
        d += tl.load(source + CHANNELS * CHANNELS + column, mask=column < CHANNELS, other=0.0)[None, :]
        s = through_softplus(d, z, known[:, None] & (column < CHANNELS)[None, :]).to(v.dtype)
        store_rows(sink, token, known, column, s, C)
        total = tl.dot(tl.trans(s), h, total, input_precision=PRECISION)
    _store_sums(total, sums_of_norm, block, column, CHANNELS)


@triton.jit
def cross_attention_backward_fused_values(
    rows, first, first_vectors, second, second_vectors, members, gradients, states,
    tokens, area, span, parts, images, CHANNELS: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, KEYS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the norm of a block of values, [v > 0] dS k, over a span of the pixels of an image."""
    column = tl.arange(0, BLOCK_C)
    branch = tl.program_id(1) // KEYS
    key = tl.program_id(1) % KEYS
    hidden = branch * BLOCKS + FEATURES - KEYS + key
    block = branch * FEATURES + FEATURES - KEYS + key
    image = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    end = image * area + area
    map = matrix(rows, pick(branch, members, 0), tokens, K)
    source = state(pick(tl.program_id(1), states, 0), pick(tl.program_id(1), states, 1), image, images, CHANNELS)
    d_state = load_transposed_state(source, column, column, CHANNELS)
    sink = matrix(gradients, hidden + KEYS, tokens, C)
    for start in tl.range(part * span, tl.minimum(part * span + span, area), BLOCK_N):
        pixel = start + tl.arange(0, BLOCK_N)
        token = image * area + pixel
        k = feature(
            map, first, first_vectors, second, second_vectors, hidden, block, token, end, column,
            K, C, BLOCK_K, PRECISION,
        )  # fmt: skip
        v = first_layer(map, first, first_vectors, hidden + KEYS, token, end, column, K, C, BLOCK_K, PRECISION)
        d = tl.where(v.to(k.dtype) > 0, multiply(k, d_state, k.dtype, PRECISION), 0.0)
        store_rows(sink, token, pixel < area, column, d, C)


@triton.jit
def cross_attention_backward_fused_layer(
    rows, first, first_vectors, second, vectors, members, gradients, products, tokens, span,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the norm of a hidden layer, [h > 0] W₂ᵀ du, in place of s, and of W₂, Σ du hᵀ over a span of tokens.

    du = γ/σ s less a constant and a multiple of u − mean is the gradient of u = W₂ h.
    """
    column = tl.arange(0, BLOCK_C)
    block = tl.program_id(1)
    branch = block // FEATURES
    hidden = branch * BLOCKS + block % FEATURES
    map = matrix(rows, pick(branch, members, 0), tokens, K)
    weight = load_state(matrix(second, block, C, C), column, column, C, C)
    own = vectors + block * (4 * C)
    scale, slope = vector(own, 1, column, C), vector(own, 3, column, C)
    constant = vector(own, 2, column, C) - slope * vector(own, 0, column, C)
    sink = matrix(gradients, hidden, tokens, C)
    begin = tl.program_id(0) * span
    total = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    for start in tl.range(begin, tl.minimum(begin + span, tokens), BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        known = token < tokens
        z = first_layer(map, first, first_vectors, hidden, token, tokens, column, K, C, BLOCK_K, PRECISION)
        h = at_least(z, 0.0).to(gradients.dtype.element_ty)
        u = tl.dot(h, tl.trans(weight), input_precision=PRECISION)
        s = load_rows(sink, token, known, column, C).to(tl.float32)
        d = tl.where(known[:, None], s * scale - (constant + slope * u), 0.0).to(h.dtype)
        total = tl.dot(tl.trans(d), h, total, input_precision=PRECISION)
        through = tl.dot(d, weight, input_precision=PRECISION)
        store_rows(sink, token, known, column, tl.where(h > 0, through, 0.0), C)
    at = products + (tl.cast(block, tl.int64) * tl.num_programs(0) + tl.program_id(0)) * (C * C)
    mask = (column < C)[:, None] & (column < C)[None, :]
    tl.store(at + column[:, None] * C + column[None, :], total, mask=mask)
