"""Upsampled losses on Triton: forward computes the loss and, where it will be needed, its gradient; backward scales it.

Four kernels: labels are counted where the loss is balanced by the counts (`sums`), tiles of cells sum loss and gradient
(`tiles`), the sums become the mean, and in backward the gradient is scaled (`sums`).
"""

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..launch import launch
from .sums import upsampled_loss_backward_scale, upsampled_loss_forward_counts, upsampled_loss_forward_mean
from .tiles import BCE, CROSS_ENTROPY, L1, UNIT_L1, upsampled_loss_forward_tiles

_KINDS = {"cross_entropy": CROSS_ENTROPY, "unit_l1": UNIT_L1, "l1": L1, "balanced_bce": BCE, "two_class": BCE}


class _Parameters(NamedTuple):
    """Tile of logits and warps: pixels × columns / threads is what every thread holds of each of five such tiles."""

    pixels: int
    warps: int


# By columns. Chosen by registers (docs/resources.md); not yet measured on a GPU.
_PARAMETERS = {
    16: _Parameters(32, 2),
    32: _Parameters(64, 4),
    64: _Parameters(32, 8),
    128: _Parameters(16, 8),
    256: _Parameters(16, 8),
}

_CELLS = 16
"""Cells along x that a tile of weights holds, the least of a matrix product: two of them beside those of the tile."""

_SLOTS = 264
"""Programs that run at a time, about: two on each multiprocessor of an H200."""


class _Tile(NamedTuple):
    """Cells that a program owns."""

    height: int
    width: int


@lru_cache(maxsize=256)
def _tile(groups: int, cells: tuple[int, int], pixels: tuple[int, int], block: int, needs_gradient: bool) -> _Tile:
    """The tile with the least work: rows of blocks of pixels that a multiprocessor goes through, halo included.

    Depends on the sizes alone, so that sums have the same bits in every run.
    """
    halo = int(needs_gradient)
    per_y, per_x = pixels[0] / cells[0], pixels[1] / cells[1]

    def work(tile: _Tile) -> float:
        programs = groups * -(-cells[0] // tile.height) * -(-cells[1] // tile.width)
        blocks = -(-int((tile.width + halo) * per_x) // block)
        return max(programs / _SLOTS, 1) * (tile.height + halo) * per_y * blocks

    # Below three cells a side the halo is most of the work.
    heights = range(min(3, cells[0]), min(cells[0], 16) + 1)
    widths = range(min(3, cells[1]), min(cells[1], _CELLS - 2) + 1)
    return min((_Tile(height, width) for height in heights for width in widths), key=work)


def forward(
    prediction: Tensor,
    target: Tensor,
    kind: str,
    ignore: float | None,
    positive_weight: float | None,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient of loss × divisor by the prediction (empty unless it is needed), and the divisor."""
    # The softmax of two logits is the sigmoid of their difference.
    logits = prediction[:, 1:].float() - prediction[:, :1].float() if kind == "two_class" else prediction
    labels = target[:, None] if kind == "cross_entropy" else target
    batch, channels, *cells = logits.shape
    pixels = labels.shape[-2:]
    coupled = kind in ("cross_entropy", "unit_l1")
    columns = max(16, triton.next_power_of_2(channels)) if coupled else 16
    parameters = _PARAMETERS[columns]
    groups = batch if coupled else -(-batch * channels // columns)
    tile = _tile(groups, tuple(cells), tuple(pixels), parameters.pixels, needs_gradient)
    tiles = [-(-cells[0] // tile.height), -(-cells[1] // tile.width)]
    programs = groups * tiles[0] * tiles[1]
    device = logits.device
    gradient = torch.empty(logits.shape if needs_gradient else 0, dtype=torch.float32, device=device)
    losses = torch.empty(programs, dtype=torch.float64, device=device)
    counts = torch.empty(programs, dtype=torch.int32, device=device)
    counted = positive_weight is None and kind in ("balanced_bce", "two_class")
    tallies = _tally(labels, ignore) if counted else counts
    # A ratio of integers, as counts give too: rounded weights would be an error common to all pixels.
    weight = Fraction(positive_weight or 0).limit_denominator(2**24)
    ratio = pixels[1] // cells[1]
    # Weights are multiples of 1 / (2 ratio): exact in eight bits for the usual strides.
    exact = logits.dtype != torch.float32 and ratio * cells[1] == pixels[1] and ratio in (1, 2, 4, 8, 16, 32, 64)
    launch(
        upsampled_loss_forward_tiles,
        (programs,),
        device,
        {
            "prediction": logits,
            "target": labels,
            "tallies": tallies,
            "gradient": gradient,
            "losses": losses,
            "counts": counts,
            "of_positive": float(weight.numerator),
            "of_negative": float(weight.denominator - weight.numerator),
            "channels": channels,
            "maps": batch * channels,
            **dict(zip(("cells_y", "cells_x", "pixels_y", "pixels_x"), (*cells, *pixels), strict=True)),
            **dict(zip(("tiles_y", "tiles_x"), tiles, strict=True)),
            **dict(zip(("tile_height", "tile_width"), tile, strict=True)),
            **dict(zip(("from_b", "from_c", "from_y", "from_x"), logits.stride(), strict=True)),
            **dict(zip(("label_b", "label_c", "label_y", "label_x"), labels.stride(), strict=True)),
            "KIND": _KINDS[kind],
            "IGNORE": 0 if ignore is None else int(ignore) if kind == "cross_entropy" else ignore,
            "HAS_IGNORE": ignore is not None,
            "NEEDS_GRADIENT": needs_gradient,
            "TALLIES": tallies.shape[-1] if counted else 0,
            "PIXELS": parameters.pixels,
            "CELLS": _CELLS,
            "COLUMNS": columns,
            "WIDE": max(cells[0] * pixels[0], max(cells[1], _CELLS) * pixels[1]) >= 2**29,
            "EXACT": exact,
            "PRECISION": "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3",
        },
        num_warps=parameters.warps,
    )
    loss, divisor = torch.empty((), device=device), torch.empty((), device=device)
    terms = channels if kind == "unit_l1" else 1
    sums = {"losses": losses, "counts": counts, "loss": loss, "divisor": divisor, "programs": programs, "terms": terms}
    launch(upsampled_loss_forward_mean, (1,), device, {**sums, "BLOCK": 1024}, num_warps=4)
    if kind == "two_class" and needs_gradient:
        gradient = torch.cat([-gradient, gradient], 1)
    return loss, gradient, divisor


def backward(grad: Tensor, prediction: Tensor, gradient: Tensor, divisor: Tensor) -> Tensor:
    """Gradient of the prediction, in its dtype, from what `forward` has kept."""
    output = torch.empty(gradient.shape, dtype=prediction.dtype, device=gradient.device)
    count = gradient.numel()
    tensors = {"grad": grad, "gradient": gradient, "divisor": divisor, "output": output}
    arguments = {**tensors, "count": count, "BLOCK": 1024}
    grid = (triton.cdiv(count, 1024),)
    launch(upsampled_loss_backward_scale, grid, gradient.device, arguments, num_warps=4)
    return output


def _tally(labels: Tensor, ignore: float | None) -> Tensor:
    """Numbers of negative and of valid labels, (2, programs)."""
    batch, channels, height, width = labels.shape
    rows = batch * channels * height
    programs = min(256, triton.next_power_of_2(-(-rows // 8)))
    tallies = torch.empty(2, programs, dtype=torch.int32, device=labels.device)
    arguments = {
        "target": labels,
        "tallies": tallies,
        "channels": channels,
        "height": height,
        "width": width,
        "rows": rows,
        **dict(zip(("stride_b", "stride_c", "stride_y", "stride_x"), labels.stride(), strict=True)),
        "IGNORE": 0.0 if ignore is None else ignore,
        "HAS_IGNORE": ignore is not None,
        "PROGRAMS": programs,
        "BLOCK": 1024,
    }
    launch(upsampled_loss_forward_counts, (programs,), labels.device, arguments, num_warps=4)
    return tallies
