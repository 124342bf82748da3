"""Kernels of the pass forward of cross attention, over all branches of one shape, and all their blocks, at once."""

import triton
import triton.language as tl

from ..elementwise import at_least, softplus
from ..products import multiply
from ..tiles import pick
from .tiles import (
    image_tile,
    load_rows,
    load_transposed_state,
    matrix,
    normalised,
    outer_sums,
    product,
    state,
    store_outer_sums,
    store_rows,
)


@triton.jit
def cross_attention_forward_rows(
    maps, rows, tokens, channels, height, width,
    C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Maps of any strides as matrices (tokens, C), padded with 0."""
    token = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    map = tl.program_id(2)
    place = tl.cast(token // width // height, tl.int64) * pick(map, maps, 1)
    place += tl.cast(token // width % height, tl.int64) * pick(map, maps, 3)
    place += tl.cast(token % width, tl.int64) * pick(map, maps, 4)
    offsets = place[:, None] + (tl.cast(column, tl.int64) * pick(map, maps, 2))[None, :]
    known = token < tokens
    x = tl.load(pick(map, maps, 0) + offsets, mask=known[:, None] & (column < channels)[None, :], other=0.0)
    store_rows(matrix(rows, map, tokens, C), token, known, column, x, C)


@triton.jit
def cross_attention_forward_moments(
    rows, centres, products, sums, tokens, span,
    C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ (x − centre) (x − centre)ᵀ and Σ (x − centre) over a span of the tokens of a map."""
    TILES: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    row = tl.program_id(1) // TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    column = tl.program_id(1) % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    map = tl.program_id(2)
    first = tl.program_id(0) * span
    source = matrix(rows, map, tokens, C)
    of_left = tl.load(centres + map * C + row, mask=row < C, other=0.0)
    of_right = tl.load(centres + map * C + column, mask=column < C, other=0.0)
    end = tl.minimum(first + span, tokens)
    DTYPE: tl.constexpr = products.dtype.element_ty
    totals, own = outer_sums(
        source, source, of_left, of_right, first, end, row, column, DTYPE, C, C, BLOCK_N, PRECISION
    )
    place = tl.program_id(0) * tl.num_programs(2) + map
    store_outer_sums(totals, own, products, sums, place, row, column, C, C)


@triton.jit
def cross_attention_forward_hidden(
    rows, moments, weights, vectors, hidden, members, tokens, READ: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, CENTRED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """relu(BN(W x)) of the layers that read maps, those of queries, of keys and of values.

    Rounding errors of the product with a large mean are alike for all tokens. The norm's mean is that of the map's
    moments and does not take them off, so maps are CENTRED before they are multiplied.
    """
    COLUMNS: tl.constexpr = BLOCKS * C
    TILES: tl.constexpr = (COLUMNS + BLOCK_C - 1) // BLOCK_C
    token = tl.program_id(0) // TILES * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(0) % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    branch = tl.program_id(1)
    source = matrix(rows, pick(branch, members, 0), tokens, K)
    weight = matrix(weights, branch, COLUMNS, K)
    means = moments + branch * ((READ + 1) * READ) if CENTRED else None
    u = product(source, weight, token, tokens, column, K, COLUMNS, 1, K, BLOCK_K, PRECISION, means, READ)
    _, z = normalised(u, vectors + branch * (3 * COLUMNS), column, COLUMNS)
    sink = hidden + (tl.cast(branch * BLOCKS + column // C, tl.int64) * tokens * C + column % C)[None, :]
    sink += (tl.cast(token, tl.int64) * C)[:, None]
    mask = (token < tokens)[:, None] & (column < COLUMNS)[None, :]
    tl.store(sink, at_least(z, 0.0).to(hidden.dtype.element_ty), mask=mask)


@triton.jit
def cross_attention_forward_statistics(
    hidden, weights, means, squares, tokens,
    C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Mean of u = W₂ h over a tile of tokens, and sum of squared deviations from it."""
    TILES: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    tile = tl.program_id(0) // TILES
    token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(0) % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    block = tl.program_id(2) * FEATURES + tl.program_id(1)
    source = matrix(hidden, tl.program_id(2) * BLOCKS + tl.program_id(1), tokens, C)
    u = product(source, matrix(weights, block, C, C), token, tokens, column, C, C, 1, C, BLOCK_K, PRECISION)
    mean = tl.sum(u, 0) / tl.minimum(tokens - tile * BLOCK_N, BLOCK_N)
    deviation = tl.where((token < tokens)[:, None], u - mean[None, :], 0.0)
    place = (tl.cast(block, tl.int64) * tl.cdiv(tokens, BLOCK_N) + tile) * C + column
    tl.store(means + place, mean, mask=column < C)
    tl.store(squares + place, tl.sum(deviation * deviation, 0), mask=column < C)


@triton.jit
def cross_attention_forward_features(
    hidden, weights, vectors, features, tokens, CHANNELS: tl.constexpr,
    C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """softplus(BN(W₂ h)): queries and keys."""
    TILES: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    token = tl.program_id(0) // TILES * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(0) % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    block = tl.program_id(2) * FEATURES + tl.program_id(1)
    source = matrix(hidden, tl.program_id(2) * BLOCKS + tl.program_id(1), tokens, C)
    u = product(source, matrix(weights, block, C, C), token, tokens, column, C, C, 1, C, BLOCK_K, PRECISION)
    _, z = normalised(u, vectors + block * (3 * C), column, C)
    y = tl.where((column < CHANNELS)[None, :], softplus(z, features.dtype.element_ty == tl.float32), 0.0)
    store_rows(matrix(features, block, tokens, C), token, token < tokens, column, y, C)


@triton.jit
def cross_attention_forward_states(
    hidden, features, partials, tokens, area, span, parts, images, CHANNELS: tl.constexpr,
    C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, KEYS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S = Σ v kᵀ and below it z = Σ k, over a span of the pixels of an image."""
    TILES: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    row = tl.program_id(1) // TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    column = tl.program_id(1) % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    branch = tl.program_id(2) // KEYS
    key = tl.program_id(2) % KEYS
    image = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    keys = matrix(features, branch * FEATURES + FEATURES - KEYS + key, tokens, C)
    values = matrix(hidden, branch * BLOCKS + BLOCKS - KEYS + key, tokens, C)
    total = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    for start in tl.range(part * span, tl.minimum(part * span + span, area), BLOCK_N):
        pixel = start + tl.arange(0, BLOCK_N)
        known = pixel < area
        token = image * area + pixel
        k = load_rows(keys, token, known, column, C)
        v = load_rows(values, token, known, row, C)
        v = tl.where((row == CHANNELS)[None, :], 1.0, v).to(k.dtype)
        total = tl.dot(tl.trans(v), k, total, input_precision=PRECISION)
    sink = state(partials, tl.program_id(2), image * parts + part, images * parts, CHANNELS)
    mask = (row <= CHANNELS)[:, None] & (column < CHANNELS)[None, :]
    tl.store(sink + row[:, None] * CHANNELS + column[None, :], total, mask=mask)


@triton.jit
def numerators(
    queries, source, token, known, row, CHANNELS: tl.constexpr, C: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S q of some channels, (tokens, rows)."""
    dtype: tl.constexpr = queries.dtype.element_ty
    total = tl.zeros([token.shape[0], row.shape[0]], tl.float32)
    for start in tl.range(0, CHANNELS, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        q = load_rows(queries, token, known, k, C)
        total += multiply(q, load_transposed_state(source, row, k, CHANNELS), dtype, PRECISION)
    return total


@triton.jit
def denominators(
    queries, source, token, known, CHANNELS: tl.constexpr, C: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """z·q, before it is clamped."""
    total = tl.zeros([token.shape[0]], tl.float32)
    for start in tl.range(0, CHANNELS, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        z = tl.load(source + CHANNELS * CHANNELS + k, mask=k < CHANNELS, other=0.0)
        total += tl.sum(load_rows(queries, token, known, k, C).to(tl.float32) * z[None, :], 1)
    return total


@triton.jit
def cross_attention_forward_output(
    features, pairs, sums, attended, tokens, area, images, eps, CHANNELS: tl.constexpr,
    C: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S q / max(z·q, eps) of a pair, into its channels of what its target attends to.

    `pairs` has rows (branch, block of queries, place among the target's pairs, block of keys), `sums` and `attended`
    rows (states of the source) and (output of the target, channels).
    """
    TILES: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    image, pixel, tile, _ = image_tile(area, BLOCK_N, TILES)
    row = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    pair = tl.program_id(1)
    known = pixel < area
    token = image * area + pixel
    queries = matrix(features, pick(pair, pairs, 0) * FEATURES + pick(pair, pairs, 1), tokens, C)
    source = state(pick(pair, sums, 0), pick(pair, pairs, 3), image, images, CHANNELS)
    below = at_least(denominators(queries, source, token, known, CHANNELS, C, BLOCK_K), eps)
    o = numerators(queries, source, token, known, row, CHANNELS, C, BLOCK_K, PRECISION) / below[:, None]
    sink = pick(pair, attended, 0)
    first = tl.cast(image, tl.int64) * pick(pair, attended, 1) + pick(pair, pairs, 2) * CHANNELS
    place = ((first + row) * area)[None, :] + pixel[:, None]
    tl.store(sink + place, o.to(sink.dtype.element_ty), mask=known[:, None] & (row < CHANNELS)[None, :])
