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

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..launch import ByArchitecture, launch
from ..map_tables import MapTable, Memory, Work, contiguous, map_tables, memories, split
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

_KEPT = 256
"""Calls, different in what launches depend on, whose launches are kept."""

Shapes = list[tuple[int, ...]]


class _Kind(NamedTuple):
    """What a call is apart from the memory of its maps."""

    d: int
    e: int
    dtype: torch.dtype
    parameters: LaunchParameters
    precision: str

    @classmethod
    def of(cls, k: Tensor, v: Tensor) -> "_Kind":
        """By a key and a value."""
        d, e, dtype = k.shape[-1], v.shape[-1], k.dtype
        tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
        return cls(d, e, dtype, PARAMETERS[dtype][class_of(d, e, dtype)], "tf32" if tf32 else "ieee")

    def holds_state(self, sizes: TileSizes) -> bool:
        """Whether a state fits in a tile."""
        return self.d <= sizes.d and self.e < sizes.e

    def tiles_of_state(self, sizes: TileSizes) -> int:
        return triton.cdiv(self.d, sizes.d) * triton.cdiv(self.e + 1, sizes.e)

    def split(self, maps: Sequence[Memory], sizes: TileSizes) -> list[Work]:
        entries = [(prod(x.shape[:-2]), x.shape[-2]) for x in maps]
        return split(entries, sizes.tokens, PROGRAMS, self.parameters.parts)

    def state_shapes(self, maps: Sequence[Memory]) -> Shapes:
        return [(*x.shape[:-2], self.e + 1, self.d) for x in maps]


class _Pass(NamedTuple):
    """The launches of a kernel: one, unless there are many maps or several layouts."""

    kernel: Any
    tables: list[MapTable]
    tiles: int
    warps: int | ByArchitecture
    constants: dict[str, Any]

    @classmethod
    def of(
        cls,
        kind: _Kind,
        kernel: Any,
        sizes: TileSizes,
        tiles: int,
        work: Sequence[Work],
        views: Mapping[str, Sequence[Memory]],
        buffers: Mapping[str, Shapes],
    ) -> "_Pass":
        """That of a kernel which reads `views` and has these contiguous `buffers`."""
        constants = {
            "D": kind.d,
            "E": kind.e,
            "BLOCK_N": sizes.tokens,
            "BLOCK_D": sizes.d,
            "BLOCK_E": sizes.e,
            "STAGES": sizes.stages,
            "PRECISION": kind.precision,
        }
        allocated = {name: list(map(contiguous, shapes)) for name, shapes in buffers.items()}
        tables = map_tables(views, allocated, work, kind.dtype.itemsize)
        return cls(kernel, tables, tiles, sizes.warps, constants)

    def start(self, device: torch.device, tensors: Mapping[str, Sequence[Tensor]], **extra: Any) -> None:
        """Launch, with the tensors by the names of the kernel's arguments."""
        for table in self.tables:
            arguments = {**table.arguments(tensors), **extra, **self.constants}
            launch(self.kernel, (table.programs, self.tiles), device, arguments, num_warps=self.warps)


def _pieces(states: Shapes, work: Sequence[Work]) -> Shapes:
    """Of the pieces of every state, (..., parts·(E + 1), D)."""
    return [(*x[:-2], parts * x[-2], x[-1]) for x, (parts, _) in zip(states, work, strict=True)]


def _partials(states: Sequence[Tensor], shapes: Shapes) -> list[Tensor]:
    """Memory for the pieces: the state itself where there is one piece."""
    return [
        state if state.shape == shape else state.new_empty(*shape) for state, shape in zip(states, shapes, strict=True)
    ]


class _Forward(NamedTuple):
    """What forward allocates and launches."""

    outputs: Shapes
    states: Shapes
    partials: Shapes
    passes: tuple[_Pass, _Pass]


@lru_cache(_KEPT)
def _forward(kind: _Kind, q: Sequence[Memory], k: Sequence[Memory], v: Sequence[Memory]) -> _Forward:
    outputs = [(*x.shape[:-1], kind.e) for x in q]
    states = kind.state_shapes(k)
    sizes = kind.parameters.states
    work = kind.split(k, sizes)
    partials = _pieces(states, work)
    tiles = kind.tiles_of_state(sizes)
    views = {"keys": k, "values": v}
    sums = _Pass.of(kind, linear_attention_forward_states, sizes, tiles, work, views, {"partials": partials})
    sizes = kind.parameters.output
    whole = kind.holds_state(sizes)
    kernel = linear_attention_forward_output if whole else linear_attention_forward_output_tiled
    tiles = triton.cdiv(kind.e, sizes.e)
    buffers = {"partials": partials, "states": states, "outputs": outputs}
    output = _Pass.of(kind, kernel, sizes, tiles, kind.split(q, sizes), {"queries": q}, buffers)
    return _Forward(outputs, states, partials, (sums, output))


def forward(q: list[Tensor], k: list[Tensor], v: list[Tensor], eps: float) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and states of a list of maps, in two launches (for each MAX_ENTRIES maps of one layout).

    Args:
        q, k, v: (..., N_q, D), (..., N_k, D), (..., N_k, E) of any strides, with equal leading shape in an entry and
            D, E, dtype (float32, bfloat16, float16) and device common to all.
        eps: lower bound of the denominator.

    Returns:
        Outputs (..., N_q, E) in the inputs' dtype, and states (..., E + 1, D) in float32, S above z. Contiguous.
    """
    plan = _forward(_Kind.of(k[0], v[0]), memories(q), memories(k), memories(v))
    first = k[0]
    wide = first.new_empty(0, dtype=torch.float32)
    # Numbers one by one, as torch reads a tuple half as fast.
    outputs = [first.new_empty(*shape) for shape in plan.outputs]
    states = [wide.new_empty(*shape) for shape in plan.states]
    tensors = {"queries": q, "keys": k, "values": v, "states": states, "outputs": outputs}
    tensors["partials"] = _partials(states, plan.partials)
    sums, output = plan.passes
    sums.start(first.device, tensors)
    output.start(first.device, tensors, eps=eps)
    return outputs, states


class _Backward(NamedTuple):
    """What backward allocates beside gradients, and launches."""

    sums: Shapes
    partials: Shapes
    weights: Shapes
    queries: _Pass
    states: _Pass | None
    sources: _Pass


@lru_cache(_KEPT)
def _backward(
    kind: _Kind, grad: Sequence[Memory], q: Sequence[Memory], k: Sequence[Memory], v: Sequence[Memory]
) -> _Backward:
    sums = kind.state_shapes(k)
    views = {"gradients": grad, "queries": q}
    buffers = {"states": sums, "query_gradients": [x.shape for x in q]}
    sizes = kind.parameters.queries
    work = kind.split(q, sizes)
    weights: Shapes = []
    of_states = None
    if kind.holds_state(sizes):
        partials = _pieces(sums, work)
        buffers["partials"] = partials
        queries = _Pass.of(kind, linear_attention_backward_queries, sizes, 1, work, views, buffers)
    else:
        weights = [(*x.shape[:-1], 2) for x in q]
        buffers["weights"] = weights
        queries = _Pass.of(kind, linear_attention_backward_queries_tiled, sizes, 1, work, views, buffers)
        sizes = kind.parameters.states
        work = kind.split(q, sizes)
        partials = _pieces(sums, work)
        tiles = kind.tiles_of_state(sizes)
        buffers = {"partials": partials, "weights": weights}
        of_states = _Pass.of(kind, linear_attention_backward_states, sizes, tiles, work, views, buffers)
    sizes = kind.parameters.sources
    whole = kind.holds_state(sizes)
    kernel = linear_attention_backward_sources if whole else linear_attention_backward_sources_tiled
    tiles = 1 if whole else triton.cdiv(kind.d, sizes.d) + triton.cdiv(kind.e, sizes.e)
    views = {"keys": k, "values": v}
    buffers = {"partials": partials, "key_gradients": [x.shape for x in k], "value_gradients": [x.shape for x in v]}
    sources = _Pass.of(kind, kernel, sizes, tiles, kind.split(k, sizes), views, buffers)
    return _Backward(sums, partials, weights, queries, of_states, sources)


def backward(
    grad: list[Tensor], q: list[Tensor], k: list[Tensor], v: list[Tensor], states: list[Tensor], eps: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of q, k and v, contiguous: two launches where a state fits in a tile, three where it does not.

    Args:
        grad: gradients (..., N_q, E) of the outputs, of any strides.
        q, k, v, eps: the arguments of `forward`.
        states: the states that it returned.
    """
    plan = _backward(_Kind.of(k[0], v[0]), memories(grad), memories(q), memories(k), memories(v))
    first = states[0]
    dq, dk, dv = ([x.new_empty(*x.shape) for x in inputs] for inputs in (q, k, v))
    sums = [first.new_empty(*shape) for shape in plan.sums]
    tensors = {"gradients": grad, "queries": q, "keys": k, "values": v, "states": states}
    tensors |= {"query_gradients": dq, "key_gradients": dk, "value_gradients": dv}
    tensors["partials"] = _partials(sums, plan.partials)
    tensors["weights"] = [first.new_empty(*shape) for shape in plan.weights]
    plan.queries.start(first.device, tensors, eps=eps)
    if plan.states is not None:
        plan.states.start(first.device, tensors)
    plan.sources.start(first.device, tensors)
    return dq, dk, dv
