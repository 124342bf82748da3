"""Triton kernels of linear attention where a state fits in one tile, which a program keeps for all its tokens.

Tiles are (BLOCK_N tokens, BLOCK_D or BLOCK_E channels), D <= BLOCK_D and E < BLOCK_E. Mathematics and scaling:
`linear_attention`.
"""

import triton
import triton.language as tl

from ..elementwise import at_least
from ..products import add_products, multiply
from ..tiles import load_tile, locate, pick, store_tile, view
from .states import merge, state_tile, store_partial, store_state


@triton.jit
def linear_attention_forward_output(
    sizes,
    queries,
    partials,
    states,
    outputs,
    eps,
    QUERIES: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Outputs of a piece of the queries; the first piece also writes the state that the partials add up to."""
    entry, leading, part, first, end, tokens, inner = locate(sizes)
    columns = tl.arange(0, BLOCK_D)
    rows = tl.arange(0, BLOCK_E)
    parts = pick(entry, partials, 1) // (E + 1)
    partial = pick(entry, partials, 0) + leading.to(tl.int64) * parts * ((E + 1) * D)
    state = state_tile(partial, parts, rows, columns, D, E)
    z = merge(partial + E * D, parts, columns, columns < D, (E + 1) * D)
    if (part == 0) & (parts > 1):
        store_state(pick(entry, states, 0) + leading.to(tl.int64) * ((E + 1) * D), rows, columns, state, z, True, D, E)
    dtype = pick(entry, queries, 0).dtype.element_ty
    query = view(entry, leading, inner, queries, QUERIES)
    output = pick(entry, outputs, 0)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        q = load_tile(query, start, tokens, columns, D, BLOCK_N, QUERIES)
        denominator = at_least(tl.sum(q.to(tl.float32) * z[None, :], axis=1), eps)
        o = multiply(q, tl.trans(state), dtype, PRECISION) / denominator[:, None]
        store_tile(output, leading, start, tokens, rows, o, E, BLOCK_N)


@triton.jit
def linear_attention_backward_queries(
    sizes,
    gradients,
    queries,
    states,
    query_gradients,
    partials,
    eps,
    GRADIENTS: tl.constexpr,
    QUERIES: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dq of a piece of the queries and its partial dŜ."""
    entry, leading, part, first, end, tokens, inner = locate(sizes)
    columns = tl.arange(0, BLOCK_D)
    rows = tl.arange(0, BLOCK_E)
    dtype = pick(entry, queries, 0).dtype.element_ty
    pointer = pick(entry, states, 0) + leading.to(tl.int64) * ((E + 1) * D)
    z = tl.load(pointer + E * D + columns, mask=columns < D, other=0.0)
    state = state_tile(pointer, 1, rows, columns, D, E)
    sums = tl.zeros([BLOCK_E, BLOCK_D], tl.float32)
    query = view(entry, leading, inner, queries, QUERIES)
    gradient = view(entry, leading, inner, gradients, GRADIENTS)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        q = load_tile(query, start, tokens, columns, D, BLOCK_N, QUERIES)
        g = load_tile(gradient, start, tokens, rows, E, BLOCK_N, GRADIENTS)
        q32 = q.to(tl.float32)
        w = multiply(g, state, dtype, PRECISION)
        denominator = tl.sum(q32 * z[None, :], axis=1)
        inside = start + tl.arange(0, BLOCK_N) < tokens
        inverse = tl.where(inside, 1.0 / at_least(denominator, eps), 0.0)
        product = tl.where(denominator >= eps, tl.sum(w * q32, axis=1) * inverse, 0.0)
        dq = (w - product[:, None] * z[None, :]) * inverse[:, None]
        store_tile(pick(entry, query_gradients, 0), leading, start, tokens, columns, dq, D, BLOCK_N)
        sums = add_products(sums, g, -product, q32 * inverse[:, None], rows, E, dtype, PRECISION)
    store_partial(entry, leading, part, sizes, partials, rows, columns, sums, D, E)


@triton.jit
def linear_attention_backward_sources(
    sizes,
    keys,
    values,
    partials,
    key_gradients,
    value_gradients,
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
    """dk and dv of a piece of the sources, from the partial dŜ."""
    entry, leading, _, first, end, tokens, inner = locate(sizes)
    columns = tl.arange(0, BLOCK_D)
    rows = tl.arange(0, BLOCK_E)
    parts = pick(entry, partials, 1) // (E + 1)
    partial = pick(entry, partials, 0) + leading.to(tl.int64) * parts * ((E + 1) * D)
    dz = merge(partial + E * D, parts, columns, columns < D, (E + 1) * D)
    dtype = pick(entry, keys, 0).dtype.element_ty
    state = state_tile(partial, parts, rows, columns, D, E)
    key = view(entry, leading, inner, keys, KEYS)
    value = view(entry, leading, inner, values, VALUES)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        k = load_tile(key, start, tokens, columns, D, BLOCK_N, KEYS)
        v = load_tile(value, start, tokens, rows, E, BLOCK_N, VALUES)
        dk = multiply(v, state, dtype, PRECISION) + dz[None, :]
        dv = multiply(k, tl.trans(state), dtype, PRECISION)
        store_tile(pick(entry, key_gradients, 0), leading, start, tokens, columns, dk, D, BLOCK_N)
        store_tile(pick(entry, value_gradients, 0), leading, start, tokens, rows, dv, E, BLOCK_N)
