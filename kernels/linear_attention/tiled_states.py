"""Triton kernels of linear attention for any number of channels: states are read tile by tile.

A tile is (BLOCK_E, BLOCK_D). The second dimension of the grid counts tiles of the output. Mathematics and scaling:
`linear_attention`.
"""

import triton
import triton.language as tl

from ..elementwise import at_least
from ..products import multiply
from ..tiles import load_tile, locate, pick, store_tile, view
from .states import merge, state_tile, store_state


@triton.jit
def linear_attention_forward_output_tiled(
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
    """BLOCK_E channels of the outputs; the first piece of the queries also writes the merged state."""
    entry, leading, _, first, end, tokens, inner = locate(sizes)
    tile = tl.program_id(1)
    rows = tile * BLOCK_E + tl.arange(0, BLOCK_E)
    dtype = pick(entry, queries, 0).dtype.element_ty
    parts = pick(entry, partials, 1) // (E + 1)
    partial = pick(entry, partials, 0) + leading.to(tl.int64) * parts * ((E + 1) * D)
    state_pointer = pick(entry, states, 0) + leading.to(tl.int64) * ((E + 1) * D)
    query = view(entry, leading, inner, queries, QUERIES)
    for start in range(first, end, BLOCK_N):
        o = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
        denominator = tl.zeros([BLOCK_N], tl.float32)
        for column in tl.range(0, D, BLOCK_D, num_stages=STAGES):
            columns = column + tl.arange(0, BLOCK_D)
            q = load_tile(query, start, tokens, columns, D, BLOCK_N, QUERIES)
            state = state_tile(partial, parts, rows, columns, D, E)
            z = merge(partial + E * D, parts, columns, columns < D, (E + 1) * D)
            if (start == 0) & (parts > 1):
                store_state(state_pointer, rows, columns, state, z, tile == 0, D, E)
            denominator += tl.sum(q.to(tl.float32) * z[None, :], axis=1)
            o += multiply(q, tl.trans(state), dtype, PRECISION)
        o /= at_least(denominator, eps)[:, None]
        store_tile(pick(entry, outputs, 0), leading, start, tokens, rows, o, E, BLOCK_N)


@triton.jit
def _weighted_values(
    gradient,
    state,
    start,
    tokens,
    columns,
    DTYPE: tl.constexpr,
    LAYOUT: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """w = g S, (BLOCK_N, columns)."""
    w = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for row in tl.range(0, E, BLOCK_E, num_stages=STAGES):
        rows = row + tl.arange(0, BLOCK_E)
        g = load_tile(gradient, start, tokens, rows, E, BLOCK_N, LAYOUT)
        w += multiply(g, state_tile(state, 1, rows, columns, D, E), DTYPE, PRECISION)
    return w


@triton.jit
def linear_attention_backward_queries_tiled(
    sizes,
    gradients,
    queries,
    states,
    query_gradients,
    weights,
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
    """dq, and what `linear_attention_backward_states` needs to make the partial dŜ: `weights` of the tokens.

    w·q needs all columns of w before any of dq can be written, so w is made twice.
    """
    entry, leading, _, first, end, tokens, inner = locate(sizes)
    dtype = pick(entry, queries, 0).dtype.element_ty
    state = pick(entry, states, 0) + leading.to(tl.int64) * ((E + 1) * D)
    query = view(entry, leading, inner, queries, QUERIES)
    gradient = view(entry, leading, inner, gradients, GRADIENTS)
    for start in range(first, end, BLOCK_N):
        product = tl.zeros([BLOCK_N], tl.float32)
        denominator = tl.zeros([BLOCK_N], tl.float32)
        for column in range(0, D, BLOCK_D):
            columns = column + tl.arange(0, BLOCK_D)
            q = load_tile(query, start, tokens, columns, D, BLOCK_N, QUERIES).to(tl.float32)
            z = tl.load(state + E * D + columns, mask=columns < D, other=0.0)
            w = _weighted_values(
                gradient, state, start, tokens, columns, dtype, GRADIENTS, D, E,
                BLOCK_N, BLOCK_D, BLOCK_E, STAGES, PRECISION,
            )  # fmt: skip
            product += tl.sum(w * q, axis=1)
            denominator += tl.sum(q * z[None, :], axis=1)
        token = start + tl.arange(0, BLOCK_N)
        inverse = tl.where(token < tokens, 1.0 / at_least(denominator, eps), 0.0)
        product = tl.where(denominator >= eps, product * inverse, 0.0)
        for column in range(0, D, BLOCK_D):
            columns = column + tl.arange(0, BLOCK_D)
            z = tl.load(state + E * D + columns, mask=columns < D, other=0.0)
            w = _weighted_values(
                gradient, state, start, tokens, columns, dtype, GRADIENTS, D, E,
                BLOCK_N, BLOCK_D, BLOCK_E, STAGES, PRECISION,
            )  # fmt: skip
            dq = (w - product[:, None] * z[None, :]) * inverse[:, None]
            store_tile(pick(entry, query_gradients, 0), leading, start, tokens, columns, dq, D, BLOCK_N)
        weight = pick(entry, weights, 0) + 2 * (leading.to(tl.int64) * tokens + token)
        tl.store(weight, inverse, mask=token < tokens)
        tl.store(weight + 1, -product, mask=token < tokens)


@triton.jit
def linear_attention_backward_sources_tiled(
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
    """BLOCK_D channels of dk or, in the tiles after these, BLOCK_E channels of dv, from the partial dŜ."""
    entry, leading, _, first, end, tokens, inner = locate(sizes)
    d_tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    tile = tl.program_id(1)
    dtype = pick(entry, keys, 0).dtype.element_ty
    parts = pick(entry, partials, 1) // (E + 1)
    partial = pick(entry, partials, 0) + leading.to(tl.int64) * parts * ((E + 1) * D)
    if tile < d_tiles:
        columns = tile * BLOCK_D + tl.arange(0, BLOCK_D)
        value = view(entry, leading, inner, values, VALUES)
        dz = merge(partial + E * D, parts, columns, columns < D, (E + 1) * D)
        for start in range(first, end, BLOCK_N):
            dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32) + dz[None, :]
            for row in tl.range(0, E, BLOCK_E, num_stages=STAGES):
                rows = row + tl.arange(0, BLOCK_E)
                v = load_tile(value, start, tokens, rows, E, BLOCK_N, VALUES)
                dk += multiply(v, state_tile(partial, parts, rows, columns, D, E), dtype, PRECISION)
            store_tile(pick(entry, key_gradients, 0), leading, start, tokens, columns, dk, D, BLOCK_N)
    else:
        rows = (tile - d_tiles) * BLOCK_E + tl.arange(0, BLOCK_E)
        key = view(entry, leading, inner, keys, KEYS)
        for start in range(first, end, BLOCK_N):
            dv = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
            for column in tl.range(0, D, BLOCK_D, num_stages=STAGES):
                columns = column + tl.arange(0, BLOCK_D)
                k = load_tile(key, start, tokens, columns, D, BLOCK_N, KEYS)
                state = state_tile(partial, parts, rows, columns, D, E)
                dv += multiply(k, tl.trans(state), dtype, PRECISION)
            store_tile(pick(entry, value_gradients, 0), leading, start, tokens, rows, dv, E, BLOCK_N)
