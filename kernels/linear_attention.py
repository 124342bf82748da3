"""Linear attention on Triton: o = S q / max(z·q, eps) with S = Σ v kᵀ and z = Σ k, and its gradients.

A state is the matrix Ŝ (E + 1, D) with the rows of S and z below them: Ŝ = Σ v̂ kᵀ, v̂ = (v, 1), one product.
With d = max(z·q, eps), g = dL/do and w = Sᵀ g, all that backward needs of the output is g·o = w·q/d, so

    dq = (w - (g·o) z)/d          dŜ = Σ (g, -g·o) (q/d)ᵀ          dk = dSᵀ v + dz          dv = dS k

with g·o replaced by 0 where the clamp is active. Forward: partial states over pieces of the tokens, then outputs,
which add the pieces up first. Backward: query gradients, with partial dŜ where a state fits in a tile (otherwise the
kernel of the states makes them), then source gradients, which add those up. Pieces are added in a fixed order.

Sums are fp32. A sum that becomes an operand of a matrix product in the inputs' dtype is divided by the power of two
under its largest element and the product multiplied by it. q/d is multiplied by the power of two under the largest
element of z, and g·o by that over the one of S, the magnitude of o: in half precision neither S nor 1/d would fit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Batch, Work, batches, launch, share
from .tiles import load_tile, locate, normalise, pick, power_of_two, reciprocal, store_tile, view

@triton.jit
def _merge(pointer, parts, offsets, mask, STRIDE: tl.constexpr):
    """Sum of `parts` matrices STRIDE elements apart, first to last."""
    total = tl.load(pointer + offsets, mask=mask, other=0.0)
    for part in tl.range(1, parts, loop_unroll_factor=4):
        total += tl.load(pointer + tl.cast(part, tl.int64) * STRIDE + offsets, mask=mask, other=0.0)
    return total


@triton.jit
def _state_tile(pointer, parts, rows, columns, D: tl.constexpr, E: tl.constexpr):
    """Rows below E of the state at `pointer`, (rows, columns)."""
    mask = (rows < E)[:, None] & (columns < D)[None, :]
    return _merge(pointer, parts, rows[:, None] * D + columns[None, :], mask, (E + 1) * D)


@triton.jit
def _state_kernel(
    sizes,
    keys,
    values,
    partials,
    weights,
    scales,
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
    """Partial Σ (v, 1) kᵀ; with `weights` (r, a) of the tokens, Σ (v, a) (r k)ᵀ, its rows times `scales`."""
    entry, lead, part, first, end, tokens, inner = locate(sizes)
    d_tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    columns = tl.program_id(1) % d_tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    rows = tl.program_id(1) // d_tiles * BLOCK_E + tl.arange(0, BLOCK_E)
    key = view(entry, lead, inner, keys, KEYS)
    value = view(entry, lead, inner, values, VALUES)
    state = tl.zeros([BLOCK_E, BLOCK_D], tl.float32)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        k = load_tile(key, start, tokens, columns, D, BLOCK_N, KEYS)
        v = load_tile(value, start, tokens, rows, E, BLOCK_N, VALUES)
        if weights is None:
            v = tl.where((rows == E)[None, :], 1.0, v).to(k.dtype)
        else:
            token = start + tl.arange(0, BLOCK_N)
            weight = pick(entry, weights, 0) + 2 * (lead.to(tl.int64) * tokens + token)
            r = tl.load(weight, mask=token < tokens, other=0.0)
            a = tl.load(weight + 1, mask=token < tokens, other=0.0)
            v = tl.where((rows == E)[None, :], a[:, None], v).to(k.dtype)
            k = (k * r[:, None]).to(k.dtype)
        state = tl.dot(tl.trans(v), k, state, input_precision=PRECISION)
    if weights is not None:
        scale = pick(entry, scales, 0) + 2 * lead
        state *= tl.where(rows == E, tl.load(scale + 1), tl.load(scale))[:, None]
    partial = lead.to(tl.int64) * pick(entry, sizes, 3) + part
    pointer = pick(entry, partials, 0) + partial * ((E + 1) * D)
    mask = (rows <= E)[:, None] & (columns < D)[None, :]
    tl.store(pointer + rows[:, None] * D + columns[None, :], state, mask=mask)


@triton.jit
def _output_kernel(
    sizes,
    queries,
    partials,
    states,
    outputs,
    eps,
    QUERIES: tl.constexpr,
    MERGE: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Outputs of one tile of E; the first program of a leading index also writes the merged state."""
    entry, lead, part, first, end, tokens, inner = locate(sizes)
    columns = tl.arange(0, BLOCK_D)
    rows = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    dtype = pick(entry, queries, 0).dtype.element_ty
    parts = pick(entry, partials, 1) // (E + 1)
    partial = pick(entry, partials, 0) + lead.to(tl.int64) * parts * ((E + 1) * D)
    summed = _state_tile(partial, parts, rows, columns, D, E)
    z = _merge(partial + E * D, parts, columns, columns < D, (E + 1) * D)
    if MERGE:  # partials are states where there is one of them
        if (part == 0) & (parts > 1):
            state = pick(entry, states, 0) + lead.to(tl.int64) * ((E + 1) * D)
            mask = (rows < E)[:, None] & (columns < D)[None, :]
            tl.store(state + rows[:, None] * D + columns[None, :], summed, mask=mask)
            if tl.program_id(1) == 0:
                tl.store(state + E * D + columns, z, mask=columns < D)
    operand, scale = normalise(summed, dtype)
    query = view(entry, lead, inner, queries, QUERIES)
    output = pick(entry, outputs, 0)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        q = load_tile(query, start, tokens, columns, D, BLOCK_N, QUERIES)
        denominator = tl.maximum(tl.sum(q.to(tl.float32) * z[None, :], axis=1), eps)
        o = tl.dot(q, tl.trans(operand), input_precision=PRECISION)
        store_tile(output, lead, start, tokens, rows, o * (scale / denominator)[:, None], E, BLOCK_N)


@triton.jit
def _query_gradient_kernel(
    sizes,
    gradients,
    queries,
    states,
    query_gradients,
    partials,
    weights,
    scales,
    eps,
    GRADIENTS: tl.constexpr,
    QUERIES: tl.constexpr,
    FUSED: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dq of a piece of the queries and, FUSED, its partial dŜ; else `weights` and `scales` for `_state_kernel`."""
    entry, lead, part, first, end, tokens, inner = locate(sizes)
    columns = tl.arange(0, BLOCK_D)
    rows = tl.arange(0, BLOCK_E)
    dtype = pick(entry, queries, 0).dtype.element_ty
    state = pick(entry, states, 0) + lead.to(tl.int64) * ((E + 1) * D)
    z = tl.load(state + E * D + columns, mask=columns < D, other=0.0)
    z_scale = power_of_two(z)
    z_inverse = reciprocal(z_scale)
    if FUSED:
        operand, scale = normalise(_state_tile(state, 1, rows, columns, D, E), dtype)
        gradient_sum = tl.zeros([BLOCK_E, BLOCK_D], tl.float32)
    query = view(entry, lead, inner, queries, QUERIES)
    gradient = view(entry, lead, inner, gradients, GRADIENTS)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        q = load_tile(query, start, tokens, columns, D, BLOCK_N, QUERIES)
        q32 = q.to(tl.float32)
        if FUSED:
            g = load_tile(gradient, start, tokens, rows, E, BLOCK_N, GRADIENTS)
            w = tl.dot(g, operand, input_precision=PRECISION) * scale
        else:
            w = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
            scale = 0.0
            for tile in tl.range(0, E, BLOCK_E):
                g = load_tile(gradient, start, tokens, tile + rows, E, BLOCK_N, GRADIENTS)
                operand, part_scale = normalise(_state_tile(state, 1, tile + rows, columns, D, E), dtype)
                w += tl.dot(g, operand, input_precision=PRECISION) * part_scale
                scale = tl.maximum(scale, part_scale)
        token = start + tl.arange(0, BLOCK_N)
        denominator = tl.sum(q32 * z[None, :], axis=1)
        inverse = tl.where(token < tokens, 1.0 / tl.maximum(denominator, eps), 0.0)
        product = tl.where(denominator >= eps, tl.sum(w * q32, axis=1) * inverse, 0.0)
        dq = (w - product[:, None] * z[None, :]) * inverse[:, None]
        store_tile(pick(entry, query_gradients, 0), lead, start, tokens, columns, dq, D, BLOCK_N)
        r = inverse * z_scale
        a = -product * (z_scale * reciprocal(scale))
        if FUSED:
            g = tl.where((rows == E)[None, :], a[:, None], g).to(dtype)
            gradient_sum = tl.dot(
                tl.trans(g), (q32 * r[:, None]).to(dtype), gradient_sum, input_precision=PRECISION
            )
        else:
            weight = pick(entry, weights, 0) + 2 * (lead.to(tl.int64) * tokens + token)
            tl.store(weight, r, mask=token < tokens)
            tl.store(weight + 1, a, mask=token < tokens)
            scale_of_token_rows = pick(entry, scales, 0) + 2 * lead
            tl.store(scale_of_token_rows, z_inverse, mask=start == 0)
            tl.store(scale_of_token_rows + 1, scale * z_inverse * z_inverse, mask=start == 0)
    if FUSED:
        gradient_sum *= tl.where(rows == E, scale * z_inverse, 1.0)[:, None] * z_inverse
        partial = lead.to(tl.int64) * pick(entry, sizes, 3) + part
        pointer = pick(entry, partials, 0) + partial * ((E + 1) * D)
        mask = (rows <= E)[:, None] & (columns < D)[None, :]
        tl.store(pointer + rows[:, None] * D + columns[None, :], gradient_sum, mask=mask)


@triton.jit
def _source_gradient_kernel(
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
    entry, lead, _, first, end, tokens, inner = locate(sizes)
    columns = tl.arange(0, BLOCK_D)
    rows = tl.arange(0, BLOCK_E)
    dtype = pick(entry, keys, 0).dtype.element_ty
    parts = pick(entry, partials, 1) // (E + 1)
    partial = pick(entry, partials, 0) + lead.to(tl.int64) * parts * ((E + 1) * D)
    dz = _merge(partial + E * D, parts, columns, columns < D, (E + 1) * D)
    if E <= BLOCK_E:
        operand, scale = normalise(_state_tile(partial, parts, rows, columns, D, E), dtype)
    key = view(entry, lead, inner, keys, KEYS)
    value = view(entry, lead, inner, values, VALUES)
    key_gradient = pick(entry, key_gradients, 0)
    value_gradient = pick(entry, value_gradients, 0)
    for start in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        k = load_tile(key, start, tokens, columns, D, BLOCK_N, KEYS)
        if E <= BLOCK_E:
            v = load_tile(value, start, tokens, rows, E, BLOCK_N, VALUES)
            dk = tl.dot(v, operand, input_precision=PRECISION) * scale
            dv = tl.dot(k, tl.trans(operand), input_precision=PRECISION) * scale
            store_tile(value_gradient, lead, start, tokens, rows, dv, E, BLOCK_N)
        else:
            dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
            for tile in tl.range(0, E, BLOCK_E):
                v = load_tile(value, start, tokens, tile + rows, E, BLOCK_N, VALUES)
                operand, scale = normalise(_state_tile(partial, parts, tile + rows, columns, D, E), dtype)
                dk += tl.dot(v, operand, input_precision=PRECISION) * scale
                dv = tl.dot(k, tl.trans(operand), input_precision=PRECISION) * scale
                store_tile(value_gradient, lead, start, tokens, tile + rows, dv, E, BLOCK_N)
        store_tile(key_gradient, lead, start, tokens, columns, dk + dz[None, :], D, BLOCK_N)


class Blocks(NamedTuple):
    """Tile and launch parameters of one kernel: tokens, D and E of a tile, warps, pipeline stages."""

    tokens: int
    d: int
    e: int
    warps: int
    stages: int


class Shape(NamedTuple):
    """The launch parameters of one channel class."""

    state: Blocks
    output: Blocks
    query_gradient: Blocks
    source_gradient: Blocks


# By (power of two that holds D and E + 1, bytes of an element). Chosen by registers, shared memory and arithmetic
# (docs/resources.md); not yet measured on a GPU.
BLOCKS: dict[tuple[int, int], Shape] = {
    (16, 2): Shape(*(Blocks(128, 16, 16, 4, 3),) * 4),
    (32, 2): Shape(*(Blocks(128, 32, 32, 4, 3),) * 4),
    (64, 2): Shape(
        Blocks(64, 64, 64, 4, 3), Blocks(64, 64, 64, 4, 3), Blocks(64, 64, 64, 4, 3), Blocks(64, 64, 64, 4, 3)
    ),
    (128, 2): Shape(
        Blocks(64, 128, 128, 8, 3), Blocks(64, 128, 128, 8, 3), Blocks(64, 128, 128, 8, 2), Blocks(64, 128, 128, 8, 2)
    ),
    (256, 2): Shape(
        Blocks(64, 64, 64, 4, 3), Blocks(64, 256, 64, 8, 1), Blocks(32, 256, 32, 8, 1), Blocks(32, 256, 32, 8, 1)
    ),
    (512, 2): Shape(
        Blocks(64, 64, 64, 4, 3), Blocks(32, 512, 32, 8, 1), Blocks(16, 512, 16, 8, 1), Blocks(16, 512, 16, 8, 1)
    ),
    (16, 4): Shape(*(Blocks(64, 16, 16, 4, 2),) * 4),
    (32, 4): Shape(*(Blocks(64, 32, 32, 4, 2),) * 4),
    (64, 4): Shape(*(Blocks(32, 64, 64, 8, 2),) * 4),
    (128, 4): Shape(
        Blocks(32, 64, 64, 8, 2), Blocks(32, 128, 32, 8, 1), Blocks(32, 128, 32, 8, 1), Blocks(32, 128, 32, 8, 1)
    ),
    (256, 4): Shape(
        Blocks(32, 64, 64, 8, 2), Blocks(16, 256, 32, 8, 1), Blocks(16, 256, 16, 8, 1), Blocks(16, 256, 16, 8, 1)
    ),
    (512, 4): Shape(
        Blocks(32, 64, 64, 8, 2), Blocks(16, 512, 16, 8, 1), Blocks(16, 512, 16, 8, 1), Blocks(16, 512, 16, 8, 1)
    ),
}

MAX_CHANNELS = 512
"""Largest D: a tile holds all channels of its queries or keys. E is not limited."""

PROGRAMS = 768
"""Pieces that a list is cut into where there is enough of it: about six for each multiprocessor of an H200."""

MAX_PARTS = 32
"""Partial states of a leading index at most: each program of the kernel that follows adds all of them up."""


def _shape(d: int, e: int, element_size: int) -> Shape:
    if d > MAX_CHANNELS:
        raise ValueError(f"linear attention on Triton takes at most {MAX_CHANNELS} channels of queries, got {d}")
    channels = min(max(16, triton.next_power_of_2(max(d, e + 1))), MAX_CHANNELS)
    return BLOCKS[channels, element_size]


def _share(tensors: Sequence[Tensor], blocks: Blocks) -> list[Work]:
    return share([(t.shape[:-2].numel(), t.shape[-2]) for t in tensors], blocks.tokens, PROGRAMS, MAX_PARTS)


def _partials(states: Sequence[Tensor], work: Sequence[Work]) -> list[Tensor]:
    """Room for the pieces of every state, (..., parts·(E + 1), D): the state itself where there is one piece."""
    return [
        state if parts == 1 else state.new_empty((*state.shape[:-2], parts * state.shape[-2], state.shape[-1]))
        for state, (parts, _) in zip(states, work, strict=True)
    ]


def _start(kernel: Any, batch: Batch, tiles: int, blocks: Blocks, like: tuple[Tensor, Tensor], **extra: Any) -> None:
    """Launch `kernel` on `batch`; `like` are a map of D channels and one of E channels."""
    keys, values = like
    tf32 = keys.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    arguments = {
        "sizes": batch.sizes,
        **batch.views,
        **{name.upper(): layout for name, layout in batch.layouts.items()},
        **batch.buffers,
        **extra,
        "D": keys.shape[-1],
        "E": values.shape[-1],
        "BLOCK_N": blocks.tokens,
        "BLOCK_D": blocks.d,
        "BLOCK_E": blocks.e,
        "STAGES": blocks.stages,
        "PRECISION": "tf32" if tf32 else "ieee",
    }
    launch(kernel, (batch.programs, tiles), keys.device, arguments, num_warps=blocks.warps)


def _sum_states(
    k: list[Tensor],
    v: list[Tensor],
    partials: list[Tensor],
    work: list[Work],
    blocks: Blocks,
    token_weights: dict[str, list[Tensor]] | None = None,
) -> None:
    tiles = triton.cdiv(k[0].shape[-1], blocks.d) * triton.cdiv(v[0].shape[-1] + 1, blocks.e)
    buffers = {"partials": partials, **(token_weights or {})}
    absent = {} if token_weights else {"weights": None, "scales": None}
    for batch in batches({"keys": k, "values": v}, buffers, work):
        _start(_state_kernel, batch, tiles, blocks, (k[0], v[0]), **absent)


def forward(q: list[Tensor], k: list[Tensor], v: list[Tensor], eps: float) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and states of a list of maps, in two launches (for each MAX_ENTRIES maps of one layout).

    Args:
        q, k, v: (..., N_q, D), (..., N_k, D), (..., N_k, E) of any strides, with equal leading shape in an entry and
            D, E, dtype (float32, bfloat16, float16) and device common to all.
        eps: lower bound of the denominator.

    Returns:
        Outputs (..., N_q, E) in the inputs' dtype, and states (..., E + 1, D) in float32, S above z. Contiguous.

    Raises:
        ValueError: D is above MAX_CHANNELS.
    """
    d, e = k[0].shape[-1], v[0].shape[-1]
    shape = _shape(d, e, k[0].element_size())
    outputs = [t.new_empty((*t.shape[:-1], e)) for t in q]
    states = [t.new_empty((*t.shape[:-2], e + 1, d), dtype=torch.float32) for t in k]
    work = _share(k, shape.state)
    partials = _partials(states, work)
    _sum_states(k, v, partials, work, shape.state)
    merge = any(parts > 1 for parts, _ in work)
    buffers = {"partials": partials, "states": states, "outputs": outputs}
    tiles = triton.cdiv(e, shape.output.e)
    for batch in batches({"queries": q}, buffers, _share(q, shape.output)):
        _start(_output_kernel, batch, tiles, shape.output, (k[0], v[0]), eps=eps, MERGE=merge)
    return outputs, states


def backward(
    grad: list[Tensor], q: list[Tensor], k: list[Tensor], v: list[Tensor], states: list[Tensor], eps: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of q, k and v, contiguous: two launches where a state fits in a tile, three where it does not.

    Args:
        grad: gradients (..., N_q, E) of the outputs, of any strides.
        q, k, v, eps: the arguments of `forward`.
        states: the states that it returned.
    """
    d, e = k[0].shape[-1], v[0].shape[-1]
    shape = _shape(d, e, k[0].element_size())
    dq, dk, dv = ([t.new_empty(t.shape) for t in inputs] for inputs in (q, k, v))
    gradients = {"gradients": grad, "queries": q}
    buffers = {"states": states, "query_gradients": dq}
    fused = e < shape.query_gradient.e
    work = _share(q, shape.query_gradient)
    if fused:
        partials = _partials([torch.empty_like(state) for state in states], work)
        rest, absent = {"partials": partials}, {"weights": None, "scales": None}
    else:
        rest = {
            "weights": [t.new_empty((*t.shape[:-1], 2), dtype=torch.float32) for t in q],
            "scales": [t.new_empty((*t.shape[:-2], 1, 2), dtype=torch.float32) for t in q],
        }
        absent = {"partials": None}
    for batch in batches(gradients, buffers | rest, work):
        _start(_query_gradient_kernel, batch, 1, shape.query_gradient, (k[0], v[0]), eps=eps, FUSED=fused, **absent)
    if not fused:
        work = _share(q, shape.state)
        partials = _partials([torch.empty_like(state) for state in states], work)
        _sum_states(q, grad, partials, work, shape.state, rest)
    buffers = {"partials": partials, "key_gradients": dk, "value_gradients": dv}
    for batch in batches({"keys": k, "values": v}, buffers, _share(k, shape.source_gradient)):
        _start(_source_gradient_kernel, batch, 1, shape.source_gradient, (k[0], v[0]))
    return dq, dk, dv
