"""Tensors in memory of other strides. What lies between and around their values is NaN, so reading it shows."""

from collections.abc import Callable

import torch
from torch import Tensor


def _contiguous(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _reversed_dimensions(x: Tensor) -> Tensor:
    order = tuple(reversed(range(x.ndim)))
    return _contiguous(x.permute(order)).permute(order)


def _channels_last(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) as torch.channels_last; tokens (B, N, C) as the map (B, C, N) that they came from."""
    return _contiguous(x.movedim(1, -1)).movedim(-1, 1) if x.ndim > 2 else _reversed_dimensions(x)


def _around(x: Tensor) -> float:
    """What must not be read: NaN, or a label that is none."""
    return torch.nan if x.is_floating_point() else torch.iinfo(x.dtype).min


def _slice_of_a_cat(x: Tensor) -> Tensor:
    if x.ndim == 0:
        return x.new_tensor([_around(x), x.item()])[1]
    gap = x.new_full((*x.shape[:-1], 1), _around(x))
    return torch.cat([gap, x, gap, gap], -1).narrow(-1, 1, x.shape[-1])


def _every_other(x: Tensor) -> Tensor:
    view = x.new_full([2 * size for size in x.shape], _around(x))[tuple(slice(1, None, 2) for _ in x.shape)]
    return view.copy_(x)


def _one_for_all(x: Tensor) -> Tensor:
    """One map in place of all those of the first dimension: other values, stride 0."""
    return _contiguous(x[:1]).expand(x.shape)


def _expanded(x: Tensor) -> Tensor:
    """The gradient that `.sum()` sends: other values, every stride 0."""
    return x.new_ones(()).expand(x.shape)


def _expanded_rows(x: Tensor) -> Tensor:
    """The gradient that `.sum(-2)` sends: other values, one row for all."""
    if x.ndim < 2:
        return _expanded(x)
    return _contiguous(x[..., :1, :]).expand(x.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": _contiguous,
    "reversed dimensions": _reversed_dimensions,
    "channels last": _channels_last,
    "slice of a cat": _slice_of_a_cat,
    "every other": _every_other,
}
INPUT_LAYOUTS = {**LAYOUTS, "one for all": _one_for_all}
GRADIENT_LAYOUTS = {**LAYOUTS, "expanded": _expanded, "expanded rows": _expanded_rows}


def far_apart(x: Tensor, axis: int, buffer: Tensor, slot: int) -> Tensor:
    """The same values in a huge buffer, the last index of `axis` more than 2³¹ elements from the first.

    Of the buffer, which must have `FAR_ELEMENTS` elements that nothing has touched, the operating system
    commits the few pages that are used. Different slots keep tensors apart.
    """
    if x.numel() == 1:
        return buffer.as_strided(x.shape, [1] * x.ndim, 2**31 + slot).copy_(x)
    axis = axis % x.ndim if -axis <= x.ndim else 0
    axis = axis if x.shape[axis] > 1 else max(range(x.ndim), key=lambda i: x.shape[i])
    strides = [0] * x.ndim
    extent = 1
    for i in reversed(range(x.ndim)):
        if i != axis:
            strides[i], extent = extent, extent * x.shape[i]
    strides[axis] = 2**31 // (x.shape[axis] - 1) + 1
    if extent > _SLOT:
        raise ValueError(f"x: got {extent} elements per index of the axis, expected at most {_SLOT}")
    return buffer.as_strided(x.shape, strides, slot * _SLOT).copy_(x)


_SLOT = 2**14
FAR_ELEMENTS = 2**31 + 2**20
