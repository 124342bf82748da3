"""Triton kernels of softplus: a program computes one tile, at one index of the dimensions that are not in it."""

import triton
import triton.language as tl

from ..elementwise import softplus


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
def softplus_forward(x, y, sizes, from_x, to_y, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """y = softplus(x)."""
    source, mask = _tile(sizes, from_x, ROWS, COLUMNS)
    sink, _ = _tile(sizes, to_y, ROWS, COLUMNS)
    argument = tl.load(x + source, mask=mask, other=0.0)
    result = softplus(argument.to(tl.float32), argument.dtype == tl.float32)
    tl.store(y + sink, result.to(y.dtype.element_ty), mask=mask)


@triton.jit
def softplus_backward(grad, y, dx, sizes, from_grad, from_y, to_dx, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """dx = grad · (1 − e^(−y))."""
    source, mask = _tile(sizes, from_grad, ROWS, COLUMNS)
    kept, _ = _tile(sizes, from_y, ROWS, COLUMNS)
    sink, _ = _tile(sizes, to_dx, ROWS, COLUMNS)
    slope = _slope(tl.load(y + kept, mask=mask, other=0.0).to(tl.float32))
    result = tl.load(grad + source, mask=mask, other=0.0).to(tl.float32) * slope
    tl.store(dx + sink, result.to(dx.dtype.element_ty), mask=mask)
