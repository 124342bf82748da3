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
import triton.language as tl
from torch import Tensor

from .launch import launch

_TILE = 1024
"""Elements of a tile at most."""


@triton.jit
def _tile(sizes, strides, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Offsets of a program's elements; of dimensions the last two are rows and columns."""
    OTHERS: tl.constexpr = len(sizes) - 2
    rest = tl.program_id(0).to(tl.int64)
    column = rest % tl.cdiv(sizes[OTHERS + 1], COLUMNS) * COLUMNS + tl.arange(0, COLUMNS)
    rest = rest // tl.cdiv(sizes[OTHERS + 1], COLUMNS)
    row = rest % tl.cdiv(sizes[OTHERS], ROWS) * ROWS + tl.arange(0, ROWS)
    rest = rest // tl.cdiv(sizes[OTHERS], ROWS)
    offsets = row[:, None] * strides[OTHERS] + column[None, :] * strides[OTHERS + 1]
    for i in tl.static_range(OTHERS):
        offsets += rest % sizes[OTHERS - 1 - i] * strides[OTHERS - 1 - i]
        rest = rest // sizes[OTHERS - 1 - i]
    return offsets, (row < sizes[OTHERS])[:, None] & (column < sizes[OTHERS + 1])[None, :]


@triton.jit
def _softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + e^(−|x|))."""
    # e^(−a) = 2^(−n) e^(−r), r = a − n log 2: the exponential in hardware is exact to the last bits for small arguments
    # only. Beyond 110 it is 0 in any case; NaN stays.
    a = tl.abs(x)
    a = tl.where(a > 110.0, 110.0, a)
    n = tl.floor(a * 1.4426950408889634 + 0.5)
    r = (a - n * 0.693145751953125) - n * 1.42860677e-6
    e = tl.exp2(-n) * tl.exp(-r)
    # log(1 + e) = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …), s = e/(2 + e) ≤ 1/3, and 2 s = e − s e: no digit of a small e
    # is lost.
    s = e / (2.0 + e)
    t = s * s
    series = t * (2 / 15) + 2 / 13
    series = series * t + 2 / 11
    series = series * t + 2 / 9
    series = series * t + 2 / 7
    series = series * t + 2 / 5
    series = series * t + 2 / 3
    return tl.maximum(x, 0.0) + (e - s * (e - t * series))


@triton.jit
def _slope(y):
    """1 − e^(−y) for y ≥ 0, below 1/2 by its series."""
    z = tl.minimum(y, 0.5)
    series = z * (-1 / 40320) + 1 / 5040
    series = series * z - 1 / 720
    series = series * z + 1 / 120
    series = series * z - 1 / 24
    series = series * z + 1 / 6
    series = series * z - 1 / 2
    return tl.where(y < 0.5, z + z * (z * series), 1.0 - tl.exp(-y))


@triton.jit
def softplus_kernel(x, y, sizes, from_x, to_y, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """y = softplus(x)."""
    source, mask = _tile(sizes, from_x, ROWS, COLUMNS)
    sink, _ = _tile(sizes, to_y, ROWS, COLUMNS)
    result = _softplus(tl.load(x + source, mask=mask, other=0.0).to(tl.float32))
    tl.store(y + sink, result.to(y.dtype.element_ty), mask=mask)


@triton.jit
def softplus_gradient_kernel(grad, y, dx, sizes, from_grad, from_y, to_dx, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """dx = grad · (1 − e^(−y))."""
    source, mask = _tile(sizes, from_grad, ROWS, COLUMNS)
    kept, _ = _tile(sizes, from_y, ROWS, COLUMNS)
    sink, _ = _tile(sizes, to_dx, ROWS, COLUMNS)
    slope = _slope(tl.load(y + kept, mask=mask, other=0.0).to(tl.float32))
    result = tl.load(grad + source, mask=mask, other=0.0).to(tl.float32) * slope
    tl.store(dx + sink, result.to(dx.dtype.element_ty), mask=mask)


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
    _run(softplus_kernel, {"x": x, "y": y}, ("from_x", "to_y"))
    return y


def backward(grad: Tensor, y: Tensor) -> Tensor:
    """grad · (1 − e^(−y)), laid out as y."""
    dx = torch.empty_like(y)
    _run(softplus_gradient_kernel, {"grad": grad, "y": y, "dx": dx}, ("from_grad", "from_y", "to_dx"))
    return dx
