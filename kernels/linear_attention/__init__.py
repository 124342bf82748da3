"""Linear attention on Triton: o = S q / max(z·q, eps) with S = Σ v kᵀ and z = Σ k, and its gradients.

A state is the matrix Ŝ (E + 1, D) with the rows of S and z below them: Ŝ = Σ v̂ kᵀ, v̂ = (v, 1), one product.
With d = max(z·q, eps), g = dL/do and w = Sᵀ g, all that backward needs of the output is g·o = w·q/d, so

    dq = (w - (g·o) z)/d          dŜ = Σ (g, -g·o) (q/d)ᵀ          dk = dSᵀ v + dz          dv = dS k

with g·o replaced by 0 where the clamp is active. Forward: partial states over pieces of the tokens, then outputs,
which add the pieces up first. Backward: query gradients and partial dŜ, then source gradients, which add those up.
Where a state does not fit in a tile the partial dŜ are a launch of their own. Pieces are added in a fixed order.

Sums are fp32. A sum that becomes an operand is rounded to the inputs' dtype; into half precision neither S nor dS, q/d
or g·o need fit, so that there operands are scaled by powers of two (`products`).
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ..launch import launch
from ..map_tables import MapTable, Work, map_tables, split
from .parameters import PARAMETERS, LaunchParameters, TileSizes, class_of
from .states import linear_attention_backward_states, linear_attention_forward_states
from .tiled_states import (
    linear_attention_backward_queries_tiled,
    linear_attention_backward_sources_tiled,
    linear_attention_forward_output_tiled,
)
from .whole_states import (
    linear_attention_backward_queries,
    linear_attention_backward_sources,
    linear_attention_forward_output,
)

PROGRAMS = 768
"""Pieces that a list is cut into where there is enough of it: about six for each multiprocessor of an H200."""


def _parameters(d: int, e: int, dtype: torch.dtype) -> LaunchParameters:
    return PARAMETERS[dtype][class_of(d, e, dtype)]


def _whole(sizes: TileSizes, d: int, e: int) -> bool:
    return d <= sizes.d and e < sizes.e


def _split(tensors: Sequence[Tensor], sizes: TileSizes, parts: int) -> list[Work]:
    return split([(t.shape[:-2].numel(), t.shape[-2]) for t in tensors], sizes.tokens, PROGRAMS, parts)


def _partials(states: Sequence[Tensor], work: Sequence[Work]) -> list[Tensor]:
    """Memory for the pieces of every state, (..., parts·(E + 1), D): the state itself where there is one piece."""
    return [
        state if parts == 1 else state.new_empty((*state.shape[:-2], parts * state.shape[-2], state.shape[-1]))
        for state, (parts, _) in zip(states, work, strict=True)
    ]


def _start(
    kernel: Any, table: MapTable, tiles: int, sizes: TileSizes, like: tuple[Tensor, Tensor], **extra: Any
) -> None:
    """Launch `kernel` on `table`; `like` are a map of D channels and one of E channels."""
    keys, values = like
    tf32 = keys.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    arguments = {
        "sizes": table.sizes,
        **table.views,
        **{name.upper(): layout for name, layout in table.layouts.items()},
        **table.buffers,
        **extra,
        "D": keys.shape[-1],
        "E": values.shape[-1],
        "BLOCK_N": sizes.tokens,
        "BLOCK_D": sizes.d,
        "BLOCK_E": sizes.e,
        "STAGES": sizes.stages,
        "PRECISION": "tf32" if tf32 else "ieee",
    }
    launch(kernel, (table.programs, tiles), keys.device, arguments, num_warps=sizes.warps)


def _tiles_of_state(d: int, e: int, sizes: TileSizes) -> int:
    return triton.cdiv(d, sizes.d) * triton.cdiv(e + 1, sizes.e)


def forward(q: list[Tensor], k: list[Tensor], v: list[Tensor], eps: float) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and states of a list of maps, in two launches (for each MAX_ENTRIES maps of one layout).

    Args:
        q, k, v: (..., N_q, D), (..., N_k, D), (..., N_k, E) of any strides, with equal leading shape in an entry and
            D, E, dtype (float32, bfloat16, float16) and device common to all.
        eps: lower bound of the denominator.

    Returns:
        Outputs (..., N_q, E) in the inputs' dtype, and states (..., E + 1, D) in float32, S above z. Contiguous.
    """
    d, e = k[0].shape[-1], v[0].shape[-1]
    parameters = _parameters(d, e, k[0].dtype)
    outputs = [t.new_empty((*t.shape[:-1], e)) for t in q]
    states = [t.new_empty((*t.shape[:-2], e + 1, d), dtype=torch.float32) for t in k]
    work = _split(k, parameters.states, parameters.parts)
    partials = _partials(states, work)
    tiles = _tiles_of_state(d, e, parameters.states)
    for table in map_tables({"keys": k, "values": v}, {"partials": partials}, work):
        _start(linear_attention_forward_states, table, tiles, parameters.states, (k[0], v[0]))
    whole = _whole(parameters.output, d, e)
    kernel = linear_attention_forward_output if whole else linear_attention_forward_output_tiled
    tiles = triton.cdiv(e, parameters.output.e)
    buffers = {"partials": partials, "states": states, "outputs": outputs}
    for table in map_tables({"queries": q}, buffers, _split(q, parameters.output, parameters.parts)):
        _start(kernel, table, tiles, parameters.output, (k[0], v[0]), eps=eps)
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
    like = k[0], v[0]
    d, e = k[0].shape[-1], v[0].shape[-1]
    parameters = _parameters(d, e, k[0].dtype)
    dq, dk, dv = ([t.new_empty(t.shape) for t in inputs] for inputs in (q, k, v))
    sums = [torch.empty_like(state) for state in states]
    views = {"gradients": grad, "queries": q}
    buffers = {"states": states, "query_gradients": dq}
    sizes = parameters.queries
    work = _split(q, sizes, parameters.parts)
    if _whole(sizes, d, e):
        partials = _partials(sums, work)
        for table in map_tables(views, {**buffers, "partials": partials}, work):
            _start(linear_attention_backward_queries, table, 1, sizes, like, eps=eps)
    else:
        weights = [t.new_empty((*t.shape[:-1], 2), dtype=torch.float32) for t in q]
        for table in map_tables(views, {**buffers, "weights": weights}, work):
            _start(linear_attention_backward_queries_tiled, table, 1, sizes, like, eps=eps)
        work = _split(q, parameters.states, parameters.parts)
        partials = _partials(sums, work)
        tiles = _tiles_of_state(d, e, parameters.states)
        for table in map_tables({"queries": q, "gradients": grad}, {"partials": partials, "weights": weights}, work):
            _start(linear_attention_backward_states, table, tiles, parameters.states, like)
    sizes = parameters.sources
    whole = _whole(sizes, d, e)
    kernel = linear_attention_backward_sources if whole else linear_attention_backward_sources_tiled
    tiles = 1 if whole else triton.cdiv(d, sizes.d) + triton.cdiv(e, sizes.e)
    buffers = {"partials": partials, "key_gradients": dk, "value_gradients": dv}
    for table in map_tables({"keys": k, "values": v}, buffers, _split(k, sizes, parameters.parts)):
        _start(kernel, table, tiles, sizes, like)
    return dq, dk, dv
