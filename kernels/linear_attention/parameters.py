"""Launch parameters of linear attention: the shipped table, which `python -m benchmarks.gpu.tuning` measures anew."""

from typing import NamedTuple

import torch
import triton

from ..launch import ByArchitecture


class TileSizes(NamedTuple):
    """Tile and launch parameters of one kernel: tokens, D and E of a tile, warps, pipeline stages."""

    tokens: int
    d: int
    e: int
    warps: int | ByArchitecture
    stages: int


class LaunchParameters(NamedTuple):
    """Launch parameters of one class of shapes; `parts`: partial states of a leading index at most.

    Each program of the kernel that follows adds all partial states up, hence few of them where states are large.
    """

    states: TileSizes
    output: TileSizes
    queries: TileSizes
    sources: TileSizes
    parts: int = 32


def class_of(d: int, e: int, dtype: torch.dtype) -> int:
    """The class of shapes that has its parameters: the power of two that holds D and E + 1, or 0 for any other."""
    size = max(16, triton.next_power_of_2(max(d, e + 1)))
    return size if size in PARAMETERS[dtype] else 0


# By class of shapes. Where a tile holds a state, D <= d and E < e, kernels of
# `whole_states` run, else those of `tiled_states`. In float16 scaling operands takes registers.
# Chosen by registers, shared memory and arithmetic (docs/resources.md), not by tuning: nothing spills
# in the layouts that are compiled for that page. In rare ones, such as a gradient of stride 0, some
# registers may, which takes time and changes no result.
PARAMETERS: dict[torch.dtype, dict[int, LaunchParameters]] = {
    torch.bfloat16: {
        16: LaunchParameters(
            states=TileSizes(64, 16, 16, 4, 3),
            output=TileSizes(64, 16, 16, 4, 3),
            queries=TileSizes(64, 16, 16, 4, 3),
            sources=TileSizes(64, 16, 16, 4, 3),
            parts=32,
        ),
        32: LaunchParameters(
            states=TileSizes(128, 32, 32, 4, 3),
            output=TileSizes(64, 32, 32, 4, 3),
            queries=TileSizes(64, 32, 32, 4, 3),
            sources=TileSizes(64, 32, 32, 4, 3),
            parts=32,
        ),
        64: LaunchParameters(
            states=TileSizes(64, 64, 64, 4, 3),
            output=TileSizes(64, 64, 64, 4, 3),
            queries=TileSizes(64, 64, 64, ByArchitecture(8, sm_90=4), 3),
            sources=TileSizes(64, 64, 64, 4, 3),
            parts=32,
        ),
        128: LaunchParameters(
            states=TileSizes(64, 128, 128, 8, 3),
            output=TileSizes(64, 128, 128, 8, 3),
            queries=TileSizes(128, 32, 32, 4, 3),
            sources=TileSizes(32, 128, 128, 8, 3),
            parts=8,
        ),
        0: LaunchParameters(
            states=TileSizes(64, 64, 64, ByArchitecture(8, sm_90=4, sm_100=4), 3),
            output=TileSizes(64, 64, 64, 4, 3),
            queries=TileSizes(64, 64, 64, 8, 3),
            sources=TileSizes(64, 64, 64, 4, 3),
            parts=4,
        ),
    },
    torch.float16: {
        16: LaunchParameters(
            states=TileSizes(64, 16, 16, 4, 3),
            output=TileSizes(64, 16, 16, 4, 3),
            queries=TileSizes(64, 16, 16, 4, 3),
            sources=TileSizes(64, 16, 16, 4, 3),
            parts=32,
        ),
        32: LaunchParameters(
            states=TileSizes(128, 32, 32, 4, 3),
            output=TileSizes(64, 32, 32, 4, 3),
            queries=TileSizes(64, 32, 32, 4, 3),
            sources=TileSizes(64, 32, 32, 4, 3),
            parts=32,
        ),
        64: LaunchParameters(
            states=TileSizes(64, 64, 64, 4, 3),
            output=TileSizes(64, 64, 64, 4, 3),
            queries=TileSizes(32, 64, 64, 4, 3),
            sources=TileSizes(64, 64, 64, 4, 3),
            parts=32,
        ),
        128: LaunchParameters(
            states=TileSizes(32, 128, 128, 8, 3),
            output=TileSizes(64, 128, 128, 8, 3),
            queries=TileSizes(128, 32, 32, 4, 3),
            sources=TileSizes(32, 128, 128, 8, 3),
            parts=8,
        ),
        0: LaunchParameters(
            states=TileSizes(64, 64, 64, 4, 3),
            output=TileSizes(64, 64, 64, 4, 3),
            queries=TileSizes(64, 64, 64, 8, 3),
            sources=TileSizes(64, 64, 64, 4, 3),
            parts=4,
        ),
    },
    torch.float32: {
        16: LaunchParameters(
            states=TileSizes(32, 16, 16, 4, 2),
            output=TileSizes(32, 16, 16, 4, 2),
            queries=TileSizes(32, 16, 16, 4, 2),
            sources=TileSizes(32, 16, 16, 4, 2),
            parts=32,
        ),
        32: LaunchParameters(
            states=TileSizes(32, 32, 32, 4, 2),
            output=TileSizes(32, 32, 32, 4, 2),
            queries=TileSizes(32, 32, 32, 4, 2),
            sources=TileSizes(32, 32, 32, 4, 2),
            parts=32,
        ),
        64: LaunchParameters(
            states=TileSizes(16, 64, 64, 8, 2),
            output=TileSizes(16, 64, 64, 8, 2),
            queries=TileSizes(32, 64, 64, 8, 2),
            sources=TileSizes(32, 64, 64, 8, 2),
            parts=32,
        ),
        0: LaunchParameters(
            states=TileSizes(16, 64, 64, 8, 2),
            output=TileSizes(64, 32, 32, 8, 2),
            queries=TileSizes(32, 32, 32, 8, 2),
            sources=TileSizes(32, 32, 32, 8, 2),
            parts=4,
        ),
    },
}
