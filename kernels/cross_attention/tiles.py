"""Device functions that the kernels of cross attention share.

Tokens of all images stand one after the other, rows of matrices whose columns are padded to a multiple of eight. What
pads is 0 everywhere: in weights, in the vectors of a norm and in activations.
"""

import triton
import triton.language as tl


@triton.jit
def product(
    left, right, token, tokens, column,
    K: tl.constexpr, COLUMNS: tl.constexpr, FROM_K: tl.constexpr, FROM_COLUMN: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, means=None, READ: tl.constexpr = 0,
):  # fmt: skip
    """Σ_k left[token, k] right[k, column] in fp32, `left` 0 beyond `tokens`; its rows are contiguous.

    `means` (READ,) in float64, if there are any, are taken from `left`, rounded to float32, beyond `tokens` too.
    """
    total = tl.zeros([token.shape[0], column.shape[0]], tl.float32)
    rows = left + (tl.cast(token, tl.int64) * K)[:, None]
    for start in tl.range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(rows + k[None, :], mask=(token < tokens)[:, None] & (k < K)[None, :], other=0.0)
        if means is not None:
            a -= tl.load(means + k, mask=k < READ, other=0.0).to(tl.float32)[None, :]
        place = k[:, None] * FROM_K + column[None, :] * FROM_COLUMN
        b = tl.load(right + place, mask=(k < K)[:, None] & (column < COLUMNS)[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def vector(vectors, which, column, COLUMNS: tl.constexpr):
    """One of the vectors of a layer, which stand one after the other."""
    return tl.load(vectors + which * COLUMNS + column, mask=column < COLUMNS, other=0.0)[None, :]


@triton.jit
def normalised(u, vectors, column, COLUMNS: tl.constexpr):
    """u less its mean, and γ/σ times that plus β: in all kernels alike, as the side of the ReLU depends on it."""
    deviation = u - vector(vectors, 0, column, COLUMNS)
    scale = tl.broadcast_to(vector(vectors, 1, column, COLUMNS), u.shape)
    shift = tl.broadcast_to(vector(vectors, 2, column, COLUMNS), u.shape)
    return deviation, tl.fma(deviation, scale, shift)


@triton.jit
def matrix(pointer, index, tokens, C: tl.constexpr):
    """The index-th of matrices (tokens, C)."""
    return pointer + tl.cast(index, tl.int64) * tokens * C


@triton.jit
def load_rows(source, token, known, column, C: tl.constexpr):
    """Rows of a matrix and some columns, 0 outside."""
    place = (tl.cast(token, tl.int64) * C)[:, None] + column[None, :]
    return tl.load(source + place, mask=known[:, None] & (column < C)[None, :], other=0.0)


@triton.jit
def store_rows(sink, token, known, column, x, C: tl.constexpr):
    """Write rows of a matrix and some columns."""
    place = (tl.cast(token, tl.int64) * C)[:, None] + column[None, :]
    tl.store(sink + place, x.to(sink.dtype.element_ty), mask=known[:, None] & (column < C)[None, :])


@triton.jit
def image_tile(area, BLOCK_N: tl.constexpr, TILES: tl.constexpr):
    """Image, pixels, and which of TILES tiles of columns, of this program: programs of the same pixels are neighbours.

    The fourth result is the number of the tile among all images' tiles of pixels.
    """
    rest = tl.program_id(0) // TILES
    down = tl.cdiv(area, BLOCK_N)
    return rest // down, rest % down * BLOCK_N + tl.arange(0, BLOCK_N), tl.program_id(0) % TILES, rest


@triton.jit
def state(pointer, index, image, images, C: tl.constexpr):
    """The state (C + 1, C), S above z, of the index-th block of keys and an image."""
    return pointer + (tl.cast(index, tl.int64) * images + image) * ((C + 1) * C)


@triton.jit
def load_state(source, row, column, ROWS: tl.constexpr, C: tl.constexpr):
    """Part of a state, (rows, columns), 0 outside of ROWS and C."""
    mask = (row < ROWS)[:, None] & (column < C)[None, :]
    return tl.load(source + row[:, None] * C + column[None, :], mask=mask, other=0.0)


@triton.jit
def load_transposed_state(source, row, column, C: tl.constexpr):
    """Part of Sᵀ, (columns, rows), 0 outside."""
    mask = (column < C)[:, None] & (row < C)[None, :]
    return tl.load(source + row[None, :] * C + column[:, None], mask=mask, other=0.0)


@triton.jit
def outer_sums(
    left, right, of_left, of_right, first, end, row, column, DTYPE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ a bᵀ and Σ a over tokens, in DTYPE, of `left` and `right` less a vector each, rounded to their dtype."""
    # Products of float32 numbers are exact in float64 alone.
    factor: tl.constexpr = DTYPE if tl.float64 == DTYPE else left.dtype.element_ty
    totals = tl.zeros([row.shape[0], column.shape[0]], DTYPE)
    sums = tl.zeros([row.shape[0]], DTYPE)
    for start in tl.range(first, end, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        known = token < end
        a = load_rows(left, token, known, row, ROWS).to(tl.float32) - of_left[None, :]
        a = tl.where(known[:, None], a, 0.0)
        b = load_rows(right, token, known, column, COLUMNS).to(tl.float32) - of_right[None, :]
        sums += tl.sum(a.to(DTYPE), 0)
        totals = tl.dot(tl.trans(a.to(factor)), b.to(factor), totals, input_precision=PRECISION, out_dtype=DTYPE)
    return totals, sums


@triton.jit
def store_outer_sums(totals, sums, products, row_sums, place, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write what a program has summed, at `place` among all of them."""
    sink = products + tl.cast(place, tl.int64) * (ROWS * COLUMNS) + row[:, None] * COLUMNS + column[None, :]
    tl.store(sink, totals, mask=(row < ROWS)[:, None] & (column < COLUMNS)[None, :])
    # Programs of the same rows and other columns have the same sums.
    tl.store(row_sums + tl.cast(place, tl.int64) * ROWS + row, sums, mask=(row < ROWS) & (tl.min(column, 0) == 0))
