"""Bilinear interpolation (align_corners=False) as small matrices, whole or in bands."""

from typing import NamedTuple

import torch
from torch import Tensor


class Band(NamedTuple):
    """A run of pixels along one axis, the cells it touches, and the weights (pixels, cells) between them."""

    pixels: slice
    cells: slice
    weights: Tensor


def interpolation(cells: int, pixels: int, device: torch.device) -> Tensor:
    """The matrix (pixels, cells) of an axis, in float64."""
    pixel, cell = (torch.arange(n, dtype=torch.float64, device=device) for n in (pixels, cells))
    return _weights(_positions(pixel[:, None], cells, pixels), cell, pixels)


def bands(cells: int, pixels: int, length: int, dtype: torch.dtype, device: torch.device) -> list[Band]:
    """An axis of `cells`, upsampled to `pixels`, in bands of `length` pixels; the last has the rest."""
    runs = [slice(first, min(first + length, pixels)) for first in range(0, pixels, length)]
    touched = []
    for run in runs:
        # The cells on both sides of the first and of the last pixel, whose positions are those of `_positions`.
        ends = [min(max((2 * x + 1) * cells - pixels, 0), 2 * pixels * (cells - 1)) for x in (run.start, run.stop - 1)]
        touched.append(slice(ends[0] // (2 * pixels), -(-ends[1] // (2 * pixels)) + 1))
    # All bands in one tensor, of the few cells that a band touches: the whole matrix grows as the square of the axis.
    pixel = torch.arange(len(runs) * length, dtype=torch.float64, device=device).view(-1, length, 1)
    at = _positions(pixel, cells, pixels)
    most = max(cell.stop - cell.start for cell in touched)
    cell = at[:, :1].div(2 * pixels, rounding_mode="floor") + torch.arange(most, device=device)
    weights = _weights(at, cell, pixels).to(dtype)
    return [
        Band(run, near, own[: run.stop - run.start, : near.stop - near.start])
        for run, near, own in zip(runs, touched, weights, strict=True)
    ]


def _positions(pixel: Tensor, cells: int, pixels: int) -> Tensor:
    """Where pixels lie, in units of 1 / (2 · pixels) cells, held within the outermost centres: integers."""
    return (pixel * (2 * cells)).add_(cells - pixels).clamp_(0, 2 * pixels * (cells - 1))


def _weights(at: Tensor, cell: Tensor, pixels: int) -> Tensor:
    """Of cells for pixels at these positions: they fall linearly from 1 at a cell's centre to 0 one cell away."""
    unit = 2 * pixels
    distance = (at - cell * unit).abs_()
    return distance.neg_().add_(unit).clamp_(min=0).div_(unit)
