"""Forward and backward on eight images: all pairs of a scale as the network asks for them.

Tasks: four of them with each other at the scale that has so many channels, each ordered pair with layers of its own; 18
channels at the finest, as of another network.
Scales: four tasks whose finest maps attend to the three coarser ones, with one block of queries for all three sources.
"""

import torch
from torch import Tensor

from seqca.configuration import IMAGE, NETWORK
from seqca.ops.shared.branches import flattened, layers_of
from seqca.pairs import Branch, between_tasks, from_coarser

from ..compilation import CompiledCase
from . import backward, forward

_TASKS = 4

_BF16, _FP16, _FP32 = torch.bfloat16, torch.float16, torch.float32

_TESTED_ON = {
    (36, "tasks", _BF16): (80, 90, 100),
    (72, "tasks", _BF16): (100,),
    (288, "tasks", _BF16): (90,),
    (288, "tasks", _FP16): (80,),
    (18, "tasks", _FP32): (90,),
    (36, "tasks", _FP32): (90,),
    (36, "scales", _BF16): (90,),
    (36, "scales", _FP32): (80,),
}
"""Every number of channels, structure, dtype and compute capability occurs."""


def _map(channels: int, scale: int, dtype: torch.dtype) -> Tensor:
    """A map of a task."""
    size = (x // NETWORK.strides[scale] for x in IMAGE)
    return torch.empty(8, channels, *size, dtype=dtype, device="meta")


def _maps(channels: int, kind: str, dtype: torch.dtype) -> list[Tensor]:
    """The maps of all tasks, at the scale that has so many channels, or at all from there on."""
    scale = NETWORK.channels.index(channels) if channels in NETWORK.channels else 0
    if kind == "tasks":
        return [_map(channels, scale, dtype) for _ in range(_TASKS)]
    scales = range(scale, len(NETWORK.channels))
    return [_map(NETWORK.channels[scale], scale, dtype) for _ in range(_TASKS) for scale in scales]


def _parameters(channels: int, maps: list[Tensor], branches: list[Branch]) -> list[Tensor]:
    """Weights of the layers."""
    shapes: dict[int, tuple[int, int]] = {}
    for branch, layers in zip(branches, layers_of(branches), strict=True):
        rows, columns = (branch.queries + branch.keys) * channels, maps[branch.map].shape[1]
        if layers.projection is not None:
            shapes[layers.projection] = channels, columns
            columns = channels
        shapes |= {layers.hidden: (rows, columns), layers.features: (rows, channels)}
        if layers.values is not None:
            shapes[layers.values] = branch.keys * channels, columns
    return [maps[0].new_empty(*shapes[i], 1, 1) for i in range(len(shapes))]


def _case(channels: int, kind: str, dtype: torch.dtype) -> CompiledCase:
    def run() -> None:
        maps = _maps(channels, kind, dtype)
        if kind == "tasks":
            branches, pairs = between_tasks(_TASKS)
        else:
            branches, pairs = from_coarser(_TASKS, len(maps) // _TASKS - 1)
        weights = _parameters(channels, maps, branches)
        vectors = [torch.empty(len(x), device="meta") for x in weights]
        arguments = (maps, weights, vectors, vectors, flattened(branches), flattened(pairs))
        attended, means, _, *kept = forward(*arguments, [], [], 1e-5, 1e-12, "")
        moments, inverse, sums = kept
        backward(attended, *arguments, means, moments, inverse, sums, 1e-12, True, "")

    known = channels in NETWORK.channels
    tokens = 8 * _TASKS * NETWORK.tokens(*IMAGE)[NETWORK.channels.index(channels)] if known else None
    return CompiledCase(f"C = {channels}, {kind}", dtype, run, _TESTED_ON.get((channels, kind, dtype), ()), tokens)


CASES = (
    *(_case(channels, "tasks", _BF16) for channels in (36, 72, 288)),
    *(_case(channels, "tasks", _FP16) for channels in (36, 288)),
    *(_case(channels, "tasks", _FP32) for channels in (18, 36)),
    *(_case(36, "scales", dtype) for dtype in (_BF16, _FP32)),
)
