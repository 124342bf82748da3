"""Triton kernels of the states of linear attention, Ŝ = Σ (v, 1) kᵀ and dŜ, in pieces; pieces read and added up."""

import triton
import triton.language as tl

from ..products import add_products
from ..tiles import load_tile, locate, pick, view


@triton.jit
def merge(pointer, parts, offsets, mask, STRIDE: tl.constexpr):
    """Sum of `parts` matrices STRIDE elements apart, first to last."""
    total = tl.load(pointer + offsets, mask=mask, other=0.0)
    for part in tl.range(1, parts, loop_unroll_factor=4):
        total += tl.load(pointer + tl.cast(part, tl.int64) * STRIDE + offsets, mask=mask, other=0.0)
    return total


@triton.jit
def state_tile(pointer, parts, rows, columns, D: tl.constexpr, E: tl.constexpr):
    """Rows below E of the state at `pointer`, (rows, columns)."""
    mask = (rows < E)[:, None] & (columns < D)[None, :]
    return merge(pointer, parts, rows[:, None] * D + columns[None, :], mask, (E + 1) * D)


@triton.jit
def store_partial(entry, leading, part, sizes, partials, rows, columns, tile, D: tl.constexpr, E: tl.constexpr):
    """Write (rows, columns) of the partial state of piece `part`."""
    partial = leading.to(tl.int64) * pick(entry, sizes, 3) + part
    pointer = pick(entry, partials, 0) + partial * ((E + 1) * D)
    mask = (rows <= E)[:, None] & (columns < D)[None, :]
    tl.store(pointer + rows[:, None] * D + columns[None, :], tile, mask=mask)


@triton.jit
def store_state(pointer, rows, columns, tile, z, WRITE_Z, D: tl.constexpr, E: tl.constexpr):
    """Write (rows, columns) of the state at `pointer` and, where WRITE_Z, the columns of its last row."""
    mask = (rows < E)[:, None] & (columns < D)[None, :]
    tl.store(pointer + rows[:, None] * D + columns[None, :], tile, mask=mask)
    if WRITE_Z:
        tl.store(pointer + E * D + columns, z, mask=columns < D)


@triton.jit
def _tile_of_state(D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr):
    """Rows and columns of the tile of the state that this program sums, counted by the second dimension of the grid."""
    d_tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    columns = tl.program_id(1) % d_tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    rows = tl.program_id(1) // d_tiles * BLOCK_E + tl.arange(0, BLOCK_E)
    return rows, columns


@triton.jit
def linear_attention_forward_states(
    sizes,
    keys,
    values,
    partials,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial Ŝ = Σ (v, 1) kᵀ."""
    entry, leading, part, first, end, tokens, inner = locate(sizes)
    rows, columns = _tile_of_state(D, BLOCK_D, BLOCK_E)
    key = view(entry, leading, inner, keys, KEYS)
    value = view(entry, leading, inner, values, VALUES)
    state = tl.zeros([BLOCK_E, BLOCK_D], tl.float32)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        k = load_tile(key, start, tokens, columns, D, BLOCK_N, KEYS)
        v = load_tile(value, start, tokens, rows, E, BLOCK_N, VALUES)
        v = tl.where((rows == E)[None, :], 1.0, v).to(k.dtype)
        state = tl.dot(tl.trans(v), k, state, input_precision=PRECISION)
    store_partial(entry, leading, part, sizes, partials, rows, columns, state, D, E)


@triton.jit
def linear_attention_backward_states(
    sizes,
    queries,
    gradients,
    partials,
    weights,
    QUERIES: tl.constexpr,
    GRADIENTS: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial dŜ = Σ (g, a) (r q)ᵀ, with `weights` (r, a) = (1/d, -g·o) of the tokens."""
    entry, leading, part, first, end, tokens, inner = locate(sizes)
    rows, columns = _tile_of_state(D, BLOCK_D, BLOCK_E)
    query = view(entry, leading, inner, queries, QUERIES)
    gradient = view(entry, leading, inner, gradients, GRADIENTS)
    state = tl.zeros([BLOCK_E, BLOCK_D], tl.float32)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        q = load_tile(query, start, tokens, columns, D, BLOCK_N, QUERIES)
        g = load_tile(gradient, start, tokens, rows, E, BLOCK_N, GRADIENTS)
        token = start + tl.arange(0, BLOCK_N)
        weight = pick(entry, weights, 0) + 2 * (leading.to(tl.int64) * tokens + token)
        r = tl.load(weight, mask=token < tokens, other=0.0)
        a = tl.load(weight + 1, mask=token < tokens, other=0.0)
        state = add_products(state, g, a, q.to(tl.float32) * r[:, None], rows, E, q.dtype, PRECISION)
    store_partial(entry, leading, part, sizes, partials, rows, columns, state, D, E)
