"""Kernels of the pass backward of cross attention from the norms of queries, keys and values to weights and maps."""

import triton
import triton.language as tl

from ..tiles import pick
from .tiles import (
    image_tile,
    load_rows,
    load_state,
    matrix,
    outer_sums,
    product,
    store_outer_sums,
    store_rows,
    vector,
)


@triton.jit
def cross_attention_backward_second(
    hidden, weights, vectors, gradients, tokens,
    C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of u = W₂ h in place of that of its norm, s: γ/σ s less a constant and a multiple of u − mean."""
    TILES: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    token = tl.program_id(0) // TILES * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(0) % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    block = tl.program_id(2) * FEATURES + tl.program_id(1)
    source = matrix(hidden, tl.program_id(2) * BLOCKS + tl.program_id(1), tokens, C)
    u = product(source, matrix(weights, block, C, C), token, tokens, column, C, C, 1, C, BLOCK_K, PRECISION)
    own = vectors + block * (4 * C)
    rest = vector(own, 2, column, C) + vector(own, 3, column, C) * (u - vector(own, 0, column, C))
    sink = matrix(gradients, block, tokens, C)
    s = load_rows(sink, token, token < tokens, column, C).to(tl.float32)
    store_rows(sink, token, token < tokens, column, s * vector(own, 1, column, C) - rest, C)


@triton.jit
def cross_attention_backward_hidden(
    hidden, weights, gradients, tokens,
    C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the norm of a hidden layer, [h > 0] W₂ᵀ du, in place of h."""
    TILES: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    token = tl.program_id(0) // TILES * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(0) % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    block = tl.program_id(2) * FEATURES + tl.program_id(1)
    source = matrix(gradients, block, tokens, C)
    d = product(source, matrix(weights, block, C, C), token, tokens, column, C, C, C, 1, BLOCK_K, PRECISION)
    sink = matrix(hidden, tl.program_id(2) * BLOCKS + tl.program_id(1), tokens, C)
    h = load_rows(sink, token, token < tokens, column, C)
    store_rows(sink, token, token < tokens, column, tl.where(h > 0, d, 0.0), C)


@triton.jit
def cross_attention_backward_products(
    left, right, centres, members, products, sums, tokens, span,
    C: tl.constexpr, K: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ s (x − centre)ᵀ and Σ s over a span of tokens, of a block of a branch.

    A branch has LEFT blocks in `left`, the first BLOCKS of which are taken, and as many of RIGHT in `right`; where
    RIGHT is 0 all its blocks read one matrix, which `members` tells.
    """
    TILES: tl.constexpr = (K + BLOCK_C - 1) // BLOCK_C
    row = tl.program_id(1) // TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    column = tl.program_id(1) % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    branch = tl.program_id(2) // BLOCKS
    block = tl.program_id(2) % BLOCKS
    if RIGHT > 0:
        source = matrix(right, branch * RIGHT + block, tokens, K)
        centre = tl.zeros([BLOCK_C], tl.float32)
    else:
        source = matrix(right, pick(branch, members, 0), tokens, K)
        centre = tl.load(centres + branch * K + column, mask=column < K, other=0.0)
    first = tl.program_id(0) * span
    totals, own = outer_sums(
        matrix(left, branch * LEFT + block, tokens, C), source, tl.zeros([BLOCK_C], tl.float32), centre,
        first, tl.minimum(first + span, tokens), row, column, products.dtype.element_ty, C, K, BLOCK_N, PRECISION,
    )  # fmt: skip
    place = tl.program_id(0) * tl.num_programs(2) + tl.program_id(2)
    store_outer_sums(totals, own, products, sums, place, row, column, C, K)


@triton.jit
def cross_attention_backward_maps(
    gradients, rows, weights, centres, slopes, constants, members, maps, tokens, area, channels,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, AFFINE: tl.constexpr, AGAIN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the map of a branch, contiguous: (γ/σ W)ᵀ s and, where AFFINE, what its moments have for every token.

    Where AGAIN it is added to what other branches have left there.
    """
    TILES: tl.constexpr = (K + BLOCK_C - 1) // BLOCK_C
    ROWS: tl.constexpr = BLOCKS * C
    image, pixel, tile, _ = image_tile(area, BLOCK_N, TILES)
    column = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    branch = tl.program_id(1)
    known = pixel < area
    token = image * area + pixel
    weight = matrix(weights, branch, ROWS, K)
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    at = gradients + (tl.cast(token, tl.int64) * C)[:, None]
    for start in tl.range(0, ROWS, BLOCK_K):
        row = start + tl.arange(0, BLOCK_K)
        place = tl.cast(branch * BLOCKS + row // C, tl.int64) * tokens * C + row % C
        s = tl.load(at + place[None, :], mask=known[:, None] & (row < ROWS)[None, :], other=0.0)
        w = load_state(weight, row, column, ROWS, K)
        total = tl.dot(s, w, total, input_precision=PRECISION)
    if AFFINE:
        # In half precision the slopes leave the range of float16, and TF32 has as many digits.
        precise: tl.constexpr = PRECISION if rows.dtype.element_ty == tl.float32 else "tf32"
        source = matrix(rows, pick(branch, members, 0), tokens, K)
        for start in tl.range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = load_rows(source, token, known, k, K).to(tl.float32)
            x -= tl.load(centres + branch * K + k, mask=k < K, other=0.0)[None, :]
            slope = load_state(slopes + branch * (K * K), k, column, K, K)
            total = tl.dot(x, slope, total, input_precision=precise)
        total += tl.load(constants + branch * K + column, mask=column < K, other=0.0)[None, :]
    sink = pick(branch, maps, 0)
    at_map = ((tl.cast(image, tl.int64) * channels + column) * area)[None, :] + pixel[:, None]
    mask = known[:, None] & (column < channels)[None, :]
    if AGAIN:
        total += tl.load(sink + at_map, mask=mask, other=0.0).to(tl.float32)
    tl.store(sink + at_map, total.to(sink.dtype.element_ty), mask=mask)
