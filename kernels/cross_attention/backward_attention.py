"""Kernels of the pass backward of cross attention from the attended maps to the norms of queries, keys and values."""

import triton
import triton.language as tl

from ..elementwise import at_least
from ..products import add_products, multiply
from ..tiles import pick
from .forward import denominators, numerators
from .tiles import (
    image_tile,
    load_rows,
    load_state,
    matrix,
    normalised,
    product,
    state,
    store_rows,
)


@triton.jit
def load_gradient(grads, branch, image, pixel, known, channel, limit, width):
    """Gradient of what a branch attends to, (pixels, channels), of any strides."""
    place = tl.cast(image, tl.int64) * pick(branch, grads, 1)
    place += tl.cast(pixel // width, tl.int64) * pick(branch, grads, 3)
    place += tl.cast(pixel % width, tl.int64) * pick(branch, grads, 4)
    offsets = place[:, None] + (tl.cast(channel, tl.int64) * pick(branch, grads, 2))[None, :]
    return tl.load(pick(branch, grads, 0) + offsets, mask=known[:, None] & (channel < limit)[None, :], other=0.0)


@triton.jit
def cross_attention_backward_weights(
    features, pairs, sums, grads, weights, tokens, area, width, images, eps, CHANNELS: tl.constexpr,
    C: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """1/d and −g·o of the tokens of a pair, d = max(z·q, eps); the second is 0 where d is clamped."""
    image, pixel, _, _ = image_tile(area, BLOCK_N, 1)
    pair = tl.program_id(1)
    known = pixel < area
    token = image * area + pixel
    branch = pick(pair, pairs, 0)
    queries = matrix(features, branch * FEATURES + pick(pair, pairs, 1), tokens, C)
    source = state(pick(pair, sums, 0), pick(pair, pairs, 3), image, images, CHANNELS)
    below = denominators(queries, source, token, known, CHANNELS, C, BLOCK_K)
    inverse = 1.0 / at_least(below, eps)
    first = pick(pair, pairs, 2) * CHANNELS
    total = tl.zeros([BLOCK_N], tl.float32)
    for start in tl.range(0, CHANNELS, BLOCK_C):
        row = start + tl.arange(0, BLOCK_C)
        o = numerators(queries, source, token, known, row, CHANNELS, C, BLOCK_K, PRECISION) * inverse[:, None]
        g = load_gradient(grads, branch, image, pixel, known, first + row, first + CHANNELS, width)
        total += tl.sum(o * g.to(tl.float32), 1)
    sink = weights + 2 * (tl.cast(pair, tl.int64) * tokens + token)
    tl.store(sink, inverse, mask=known)
    tl.store(sink + 1, tl.where(below >= eps, -total, 0.0), mask=known)


@triton.jit
def cross_attention_backward_states(
    features, pairs, grads, weights, partials, tokens, area, width, span, parts, images, CHANNELS: tl.constexpr,
    C: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of S and z of a pair over a span of the pixels of an image: Σ (g, −g·o) (q/d)ᵀ."""
    TILES: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    row = tl.program_id(1) // TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    column = tl.program_id(1) % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    image = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    pair = tl.program_id(2)
    branch = pick(pair, pairs, 0)
    queries = matrix(features, branch * FEATURES + pick(pair, pairs, 1), tokens, C)
    first = pick(pair, pairs, 2) * CHANNELS
    dtype: tl.constexpr = features.dtype.element_ty
    total = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    for start in tl.range(part * span, tl.minimum(part * span + span, area), BLOCK_N):
        pixel = start + tl.arange(0, BLOCK_N)
        known = pixel < area
        token = image * area + pixel
        source = weights + 2 * (tl.cast(pair, tl.int64) * tokens + token)
        inverse = tl.load(source, mask=known, other=0.0)
        last = tl.load(source + 1, mask=known, other=0.0)
        q = load_rows(queries, token, known, column, C).to(tl.float32) * inverse[:, None]
        g = load_gradient(grads, branch, image, pixel, known, first + row, first + CHANNELS, width)
        total = add_products(total, g, last, q, row, CHANNELS, dtype, PRECISION)
    sink = state(partials, pair, image * parts + part, images * parts, CHANNELS)
    mask = (row <= CHANNELS)[:, None] & (column < CHANNELS)[None, :]
    tl.store(sink + row[:, None] * CHANNELS + column[None, :], total, mask=mask)


@triton.jit
def through_softplus(d, z, known):
    """The gradient of z by that of softplus(z), d; 0 of what is not known."""
    return tl.where(known, d / (1.0 + tl.exp(-z)), 0.0)


@triton.jit
def _through_feature(
    d, hidden, weights, vectors, gradients, sums, block, source, token, known, column, tile, tiles, tokens,
    CHANNELS: tl.constexpr, C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Goes from the gradient d of queries or keys to s, that of BN(u), u = W₂ h; Σ s and Σ s (u − mean) of the tile."""
    u = product(
        matrix(hidden, source, tokens, C), matrix(weights, block, C, C), token, tokens, column,
        C, C, 1, C, BLOCK_K, PRECISION,
    )  # fmt: skip
    deviation, z = normalised(u, vectors + block * (3 * C), column, C)
    s = through_softplus(d, z, known[:, None] & (column < CHANNELS)[None, :]).to(gradients.dtype.element_ty)
    store_rows(matrix(gradients, block, tokens, C), token, known, column, s, C)
    s = s.to(tl.float32)
    sink = sums + (tl.cast(block, tl.int64) * tiles + tile) * (2 * C) + column
    tl.store(sink, tl.sum(s, 0), mask=column < C)
    tl.store(sink + C, tl.sum(s * deviation, 0), mask=column < C)


@triton.jit
def cross_attention_backward_queries(
    hidden, second, vectors, gradients, sums_of_norm, blocks, pairs, sums, grads, weights,
    tokens, area, width, images, CHANNELS: tl.constexpr,
    C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, QUERIES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the norm of a block of queries, Σ (Sᵀ g − (g·o) z)/d over its pairs, through softplus.

    `blocks` has rows (first pair, pairs).
    """
    TILES: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    image, pixel, tile, place = image_tile(area, BLOCK_N, TILES)
    column = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    branch = tl.program_id(2)
    query = tl.program_id(1)
    known = pixel < area
    token = image * area + pixel
    dtype: tl.constexpr = hidden.dtype.element_ty
    begin = pick(branch * QUERIES + query, blocks, 0)
    d = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for pair in tl.range(begin, begin + pick(branch * QUERIES + query, blocks, 1)):
        source = state(pick(pair, sums, 0), pick(pair, pairs, 3), image, images, CHANNELS)
        first = pick(pair, pairs, 2) * CHANNELS
        weighted = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
        for start in tl.range(0, CHANNELS, BLOCK_K):
            row = start + tl.arange(0, BLOCK_K)
            g = load_gradient(grads, branch, image, pixel, known, first + row, first + CHANNELS, width)
            weighted += multiply(g, load_state(source, row, column, CHANNELS, CHANNELS), dtype, PRECISION)
        z = tl.load(source + CHANNELS * CHANNELS + column, mask=column < CHANNELS, other=0.0)
        at = weights + 2 * (tl.cast(pair, tl.int64) * tokens + token)
        inverse = tl.load(at, mask=known, other=0.0)
        last = tl.load(at + 1, mask=known, other=0.0)
        d += (weighted + last[:, None] * z[None, :]) * inverse[:, None]
    tiles = images * tl.cdiv(area, BLOCK_N)
    _through_feature(
        d, hidden, second, vectors, gradients, sums_of_norm, branch * FEATURES + query, branch * BLOCKS + query,
        token, known, column, place, tiles, tokens, CHANNELS, C, BLOCK_K, PRECISION,
    )  # fmt: skip


@triton.jit
def cross_attention_backward_keys(
    hidden, second, vectors, gradients, sums_of_norm, states, tokens, area, images, CHANNELS: tl.constexpr,
    C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, KEYS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the norm of a block of keys, dSᵀ v + dz, through softplus; `states` has rows (dS, index)."""
    TILES: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    image, pixel, tile, place = image_tile(area, BLOCK_N, TILES)
    column = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    branch = tl.program_id(2)
    key = tl.program_id(1)
    known = pixel < area
    token = image * area + pixel
    dtype: tl.constexpr = hidden.dtype.element_ty
    values = matrix(hidden, branch * BLOCKS + BLOCKS - KEYS + key, tokens, C)
    entry = branch * KEYS + key
    source = state(pick(entry, states, 0), pick(entry, states, 1), image, images, CHANNELS)
    d = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for start in tl.range(0, CHANNELS, BLOCK_K):
        row = start + tl.arange(0, BLOCK_K)
        v = load_rows(values, token, known, row, C)
        d += multiply(v, load_state(source, row, column, CHANNELS, CHANNELS), dtype, PRECISION)
    d += tl.load(source + CHANNELS * CHANNELS + column, mask=column < CHANNELS, other=0.0)[None, :]
    block = FEATURES - KEYS + key
    tiles = images * tl.cdiv(area, BLOCK_N)
    _through_feature(
        d, hidden, second, vectors, gradients, sums_of_norm, branch * FEATURES + block, branch * BLOCKS + block,
        token, known, column, place, tiles, tokens, CHANNELS, C, BLOCK_K, PRECISION,
    )  # fmt: skip


@triton.jit
def cross_attention_backward_values(
    hidden, features, states, tokens, area, images, CHANNELS: tl.constexpr,
    C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, KEYS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the norm of a block of values, [v > 0] dS k, in place of v."""
    TILES: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    image, pixel, tile, _ = image_tile(area, BLOCK_N, TILES)
    row = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    branch = tl.program_id(2)
    key = tl.program_id(1)
    known = pixel < area
    token = image * area + pixel
    keys = matrix(features, branch * FEATURES + FEATURES - KEYS + key, tokens, C)
    values = matrix(hidden, branch * BLOCKS + BLOCKS - KEYS + key, tokens, C)
    entry = branch * KEYS + key
    source = state(pick(entry, states, 0), pick(entry, states, 1), image, images, CHANNELS)
    d = numerators(keys, source, token, known, row, CHANNELS, C, BLOCK_K, PRECISION)
    v = load_rows(values, token, known, row, C)
    store_rows(values, token, known, row, tl.where(v > 0, d, 0.0), C)
