"""Device functions of sums Σ up(X_i) W_i: a tile is one product.

The tokens of a tile are its pixels, row by row. Their rows of the left operand are the channels of the finest level and
then, for every cell of the coarser levels that the tile may touch (its patch), the weight of interpolation. The rows of
the right operand are those of W_0, and after them Y_i = X_i W_i of all cells of all images; a table tells which of
them belong to a tile. So one product interpolates, sums and multiplies the finest level, at any ratio of sizes.
"""

import triton
import triton.language as tl

GROUP = tl.constexpr(16)
"""Tokens that are summed without other warps: sums over all are taken by groups, and added afterwards."""


@triton.jit
def pixels(tile, height, width, down, across, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """Image, rows, columns of the tokens of a tile of HIGH × WIDE pixels, and which of them are inside the image."""
    token = tl.arange(0, HIGH * WIDE)
    y = tile // across % down * HIGH + token // WIDE
    x = tile % across * WIDE + token % WIDE
    return tile // across // down, y, x, (y < height) & (x < width)


@triton.jit
def _offset(row, padded, FAR: tl.constexpr):
    """Where rows of the right operand begin: in 64 bits only where they are needed, as they stay in registers."""
    return tl.load(row).to(tl.int64 if FAR else tl.int32) * padded


@triton.jit
def operands(left, rows, tile, padded, TOKENS: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, FAR: tl.constexpr):
    """The first BLOCK_K columns of a tile's left operand, which stay, and the offsets of its rows of the right one."""
    k = tl.arange(0, BLOCK_K)
    source = left + tl.cast(tile, tl.int64) * (TOKENS * K)
    first = tl.load(source + (tl.arange(0, TOKENS) * K)[:, None] + k[None, :])
    return first, _offset(rows + tl.cast(tile, tl.int64) * K + k, padded, FAR)


@triton.jit
def sum_tile(
    first, offsets, left, rows, right, tile, padded, channels,
    TOKENS: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr, FAR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ up(X_i) W_i of the tokens of a tile and some channels, in fp32; `first`, `offsets` are of `operands`."""
    total = tl.dot(first, tl.load(right + offsets[:, None] + channels[None, :]), input_precision=PRECISION)
    if K > BLOCK_K:
        source = left + tl.cast(tile, tl.int64) * (TOKENS * K)
        for start in tl.range(BLOCK_K, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            some = tl.load(source + (tl.arange(0, TOKENS) * K)[:, None] + k[None, :])
            row = _offset(rows + tl.cast(tile, tl.int64) * K + k, padded, FAR)
            total = tl.dot(some, tl.load(right + row[:, None] + channels[None, :]), total, input_precision=PRECISION)
    return total


@triton.jit
def sum_tokens(x, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """Σ over every GROUP tokens of (TOKENS, BLOCK), which a warp has in its registers; the first step is a thread's."""
    pairs = tl.sum(tl.reshape(x, [TOKENS // GROUP, 2, GROUP // 2, BLOCK]), 1)
    return tl.sum(pairs, 1)
