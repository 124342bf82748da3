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
    # In units of 1 / (2 · pixels) cells, positions are integers: pixel x lies at (2x + 1) · cells − pixels, held
    # within the outermost centres, and cell c at 2 · pixels · c. A cell's weight falls linearly to 0 one cell away.
    unit = 2 * pixels
    at, centres = (torch.arange(n, dtype=torch.float64, device=device) for n in (pixels, cells))
    at = at.mul_(2 * cells).add_(cells - pixels)
    distance = (at.clamp_(0, unit * (cells - 1))[:, None] - centres.mul_(unit)).abs_()
    return distance.neg_().add_(unit).clamp_(min=0).div_(unit)


def bands(cells: int, pixels: int, length: int, dtype: torch.dtype, device: torch.device) -> list[Band]:
    """An axis of `cells`, upsampled to `pixels`, in bands of `length` pixels; the last has the rest."""
    found, weights = [], interpolation(cells, pixels, device).to(dtype)
    for first in range(0, pixels, length):
        band = slice(first, min(first + length, pixels))
        # The cells on both sides of the first and of the last pixel, whose positions are as in `interpolation`.
        ends = [min(max((2 * x + 1) * cells - pixels, 0), 2 * pixels * (cells - 1)) for x in (first, band.stop - 1)]
        touched = slice(ends[0] // (2 * pixels), -(-ends[1] // (2 * pixels)) + 1)
        found.append(Band(band, touched, weights[band, touched]))
    return found
