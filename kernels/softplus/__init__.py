"""Softplus on Triton, and its gradient from the result: elementwise, whatever the strides.

A program computes a tile, rows × columns, of two dimensions, at one index of all others. Tensors in memory in one order
and without gaps are one row. Otherwise columns are the fastest dimension of the result, and rows the largest of the
others. Where the gradient has another order than the result, columns are contiguous in the result and rows in the
gradient, so that both are read and written in whole sectors.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..launch import launch
from .kernels import softplus_backward, softplus_forward

_TILE = 1024
"""Elements of a tile at most."""


class _Tiling(NamedTuple):
    """Sizes of the dimensions, rows and columns last, the strides of every tensor along them, and the tile."""

    sizes: tuple[int, ...]
    strides: list[tuple[int, ...]]
    rows: int
    columns: int

    def programs(self) -> int:
        """One per tile and index of the other dimensions."""
        *others, rows, columns = self.sizes
        count = triton.cdiv(rows, self.rows) * triton.cdiv(columns, self.columns)
        for size in others:
            count *= size
        return count


def _tiling(tensors: Sequence[Tensor]) -> _Tiling:
    """For tensors of one shape, the input first and the output last."""
    output = tensors[-1]
    dimensions: list[tuple[int, ...]] = []  # size, then strides
    for i in sorted(range(output.ndim), key=output.stride, reverse=True):
        size, strides = output.shape[i], [tensor.stride(i) for tensor in tensors]
        if size == 1:
            continue
        if dimensions and all(outer == inner * size for outer, inner in zip(dimensions[-1][1:], strides, strict=True)):
            size *= dimensions.pop()[0]
        dimensions.append((size, *strides))
    dimensions = [(1,) * (len(tensors) + 1)] * (2 - len(dimensions)) + dimensions
    fastest = min(range(len(dimensions)), key=lambda i: dimensions[i][1] or torch.inf)
    transposed = fastest < len(dimensions) - 1 and dimensions[fastest][0] > 1 and dimensions[fastest][1] > 0
    largest = max(range(len(dimensions) - 1), key=lambda i: dimensions[i][0])
    dimensions.insert(-1, dimensions.pop(fastest if transposed else largest))
    sizes, *strides = zip(*dimensions, strict=True)
    columns = min(triton.next_power_of_2(sizes[-1]), 32 if transposed else _TILE)
    rows = min(triton.next_power_of_2(sizes[-2]), _TILE // columns)
    return _Tiling(sizes, strides, rows, columns)


def _run(kernel: Any, tensors: dict[str, Tensor], strides: Sequence[str]) -> None:
    """Launch `kernel` with tensors, the input first and the output last, and the names of their strides."""
    output = list(tensors.values())[-1]
    if output.numel() == 0:
        return
    tiling = _tiling(list(tensors.values()))
    arguments = {**tensors, "sizes": tiling.sizes, **dict(zip(strides, tiling.strides, strict=True))}
    constants = {"ROWS": tiling.rows, "COLUMNS": tiling.columns}
    launch(kernel, (tiling.programs(),), output.device, {**arguments, **constants}, num_warps=4)


def forward(x: Tensor) -> Tensor:
    """log(1 + e^x), laid out as x."""
    y = torch.empty_like(x)
    _run(softplus_forward, {"x": x, "y": y}, ("from_x", "to_y"))
    return y


def backward(grad: Tensor, y: Tensor) -> Tensor:
    """grad · (1 − e^(−y)), laid out as y."""
    dx = torch.empty_like(y)
    _run(softplus_backward, {"grad": grad, "y": y, "dx": dx}, ("from_grad", "from_y", "to_dx"))
    return dx
