"""Forward and backward on eight images: all pairs of a scale as the network asks for them.

Tasks: four of them with each other at the scale that has so many channels, each ordered pair with layers of its own.
Scales: four tasks whose finest maps attend to the three coarser ones, with one block of queries for all three sources.
"""

import torch
from torch import Tensor

from seqca.configuration import IMAGE, NETWORK
from seqca.ops.shared.branches import flattened, layers_of
from seqca.reference.cross_attention import Branch, Pair

from ..compilation import CompiledCase
from . import backward, forward

TASKS = 4

_BF16, _FP16, _FP32 = torch.bfloat16, torch.float16, torch.float32

_TESTED_ON = {
    (36, "tasks", _BF16): (80, 90, 100),
    (72, "tasks", _BF16): (100,),
    (144, "tasks", _BF16): (90,),
    (288, "tasks", _FP16): (80,),
    (36, "tasks", _FP32): (90,),
    (36, "scales", _FP16): (100,),
}
"""Every number of channels, structure, dtype and compute capability occurs."""

Structure = tuple[list[Tensor], list[Branch], list[Pair]]


def _map(scale: int, dtype: torch.dtype) -> Tensor:
    """Of a task."""
    size = (x // NETWORK.strides[scale] for x in IMAGE)
    return torch.empty(8, NETWORK.channels[scale], *size, dtype=dtype, device="meta")


def between_tasks(scale: int, dtype: torch.dtype, tasks: int = TASKS) -> Structure:
    """Maps, branches and pairs of a scale."""
    others = tasks - 1
    maps = [_map(scale, dtype) for _ in range(tasks)]
    branches = [Branch(i, others, others) for i in range(tasks)]
    pairs = [Pair(i, j - (j > i), j, i - (i > j)) for i in range(tasks) for j in reversed(range(tasks)) if j != i]
    return maps, branches, pairs


def across_scales(scale: int, dtype: torch.dtype, tasks: int = TASKS) -> Structure:
    """Maps, branches and pairs of what attends at a scale to those after it."""
    scales = range(scale, len(NETWORK.channels))
    maps = [_map(s, dtype) for _ in range(tasks) for s in scales]
    branches, pairs = [], []
    for task in range(tasks):
        first = task * len(scales)
        branches += [Branch(first, queries=1)]
        branches += [Branch(first + j, keys=1, projected=True) for j in range(1, len(scales))]
        pairs += [Pair(first, 0, first + j, 0) for j in range(1, len(scales))]
    return maps, branches, pairs


def parameters(channels: int, maps: list[Tensor], branches: list[Branch]) -> list[Tensor]:
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
        make = between_tasks if kind == "tasks" else across_scales
        maps, branches, pairs = make(NETWORK.channels.index(channels), dtype)
        weights = parameters(channels, maps, branches)
        vectors = [torch.empty(len(x), device="meta") for x in weights]
        arguments = (maps, weights, vectors, vectors, flattened(branches), flattened(pairs))
        attended, means, _, *kept = forward(*arguments, [], [], 1e-5, 1e-12, "")
        moments, inverse, sums = kept
        backward(attended, *arguments, means, moments, inverse, sums, 1e-12, True, "")

    return CompiledCase(f"C = {channels}, {kind}", dtype, run, _TESTED_ON.get((channels, kind, dtype), ()))


CASES = (
    *(_case(channels, "tasks", _BF16) for channels in NETWORK.channels),
    *(_case(channels, "tasks", dtype) for dtype in (_FP16, _FP32) for channels in NETWORK.channels[::3]),
    *(_case(NETWORK.channels[0], "scales", dtype) for dtype in (_BF16, _FP16)),
)
