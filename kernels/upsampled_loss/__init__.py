"""Upsampled losses on Triton: forward computes the loss and, where it will be needed, its gradient; backward scales it.

Labels are counted where the loss is balanced by the counts (`sums`), a pass over the pixels sums the loss (`pixels`),
one over the cells their gradient (`cells`), the sums become the mean, and in backward the gradient is scaled (`sums`).
"""

from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import launch
from .cells import upsampled_loss_forward_cells
from .pixels import BCE, CROSS_ENTROPY, L1, UNIT_L1, upsampled_loss_forward_pixels
from .sums import upsampled_loss_backward_scale, upsampled_loss_forward_counts, upsampled_loss_forward_mean

_KINDS = {"cross_entropy": CROSS_ENTROPY, "unit_l1": UNIT_L1, "l1": L1, "balanced_bce": BCE, "two_class": BCE}

_BLOCK = 4
"""Rows and columns of pixels at most that a lane of the pass over pixels has in its registers."""

_CHANNELS = 8
"""Channels at most of a lane of the pass over cells."""

_WARPS = 1584
"""Warps of the pass over cells that run at a time: twelve on each multiprocessor of an H200."""

# Registers with which about twelve warps run on a multiprocessor.
_PIXEL_OPTIONS = {"num_warps": 2, "maxnreg": 168}
_CELL_REGISTERS = 176


class _Sizes(NamedTuple):
    """What decides how a call is divided; nothing else does, so that sums have the same bits in every run."""

    batch: int
    channels: int
    cells: tuple[int, int]
    pixels: tuple[int, int]


class _PixelBlocks(NamedTuple):
    """Blocks of pixels into which every square is cut: their sides and how many there are, down and across."""

    rows: int
    columns: int
    down: int
    across: int


@lru_cache(maxsize=256)
def _pixel_blocks(sizes: _Sizes) -> _PixelBlocks:
    """A square has as many rows and columns as the ratio of the sizes, rounded up, at most."""
    most = [-(-pixels // cells) for pixels, cells in zip(sizes.pixels, sizes.cells, strict=True)]
    sides = [min(_BLOCK, triton.next_power_of_2(side)) for side in most]
    return _PixelBlocks(*sides, *(-(-side // block) for side, block in zip(most, sides, strict=True)))


class _Split(NamedTuple):
    """What a program of the pass over cells takes: rows of cells, and blocks of every square one below the other."""

    height: int
    down: int


@lru_cache(maxsize=256)
def _split(sizes: _Sizes, warps: int) -> _Split:
    """The split with the least time for `warps` in a row of cells, counted in blocks that a warp goes through.

    Programs of few rows go through one band more than they own; parts of squares instead are summed afterwards and take
    memory: in all a sixteenth of that of the logits of all pixels at most, as blocks are.
    """
    blocks = _pixel_blocks(sizes)
    rows = sizes.cells[0]

    def time(split: _Split) -> float:
        parts = -(-blocks.down // split.down) * blocks.across
        at_once = -(-warps * parts * -(-rows // split.height) // _WARPS)
        # A quarter of a block for what is done once for every band, and for adding it to the other parts.
        return at_once * (split.height + 1) * (split.down + 0.25 + 0.25 * (parts > 1))

    heights = {-(-rows // stretches) for stretches in range(1, rows + 1)}
    downs = {-(-blocks.down // parts) for parts in range(1, blocks.down + 1)}
    return min((_Split(height, down) for height in sorted(heights) for down in sorted(downs)), key=time)


def _axis(cells: int, pixels: int) -> tuple[int, int, int, int, float]:
    """An axis as `geometry` describes it."""
    common = gcd(cells, pixels)
    return cells, pixels, cells // common, pixels // common, common / (2 * pixels)


def forward(
    prediction: Tensor,
    target: Tensor,
    kind: str,
    ignore: float | None,
    positive_weight: float | None,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient of loss × divisor by the prediction (empty unless it is needed), and the divisor."""
    logits = prediction
    if kind == "two_class":  # the softmax of two logits is the sigmoid of their difference
        logits = prediction[:, 1:].float() - prediction[:, :1].float()
    elif kind == "cross_entropy" and prediction.shape[1] == 1:  # that of one is 1, without a rounding
        logits = prediction - prediction
    labels = target[:, None] if kind == "cross_entropy" else target
    batch, channels, *cells = logits.shape
    sizes = _Sizes(batch, channels, (cells[0], cells[1]), (labels.shape[-2], labels.shape[-1]))
    blocks = _pixel_blocks(sizes)
    width = blocks.across * blocks.columns
    squares = batch * (cells[1] + 1)
    lanes = 32 * _PIXEL_OPTIONS["num_warps"]
    tiles = -(-squares // lanes)
    programs = tiles * blocks.across * blocks.down * (cells[0] + 1)
    device = logits.device
    counted = positive_weight is None and kind in ("balanced_bce", "two_class")
    counts = torch.empty(programs, dtype=torch.int32, device=device)
    losses = torch.empty(programs, dtype=torch.float64, device=device)
    tallies = _tally(labels, ignore) if counted else counts
    per_pixel = squares * sizes.pixels[0] * width if needs_gradient and kind == "cross_entropy" else 0
    shifts, inverses = torch.empty(2, per_pixel, dtype=torch.float32, device=device)
    classes = torch.empty(per_pixel, dtype=torch.int16, device=device)
    # A ratio of integers, as counts give too: rounded weights would be an error common to all pixels.
    weight = Fraction(positive_weight or 0).limit_denominator(2**24)
    axes = [_axis(*axis) for axis in zip(sizes.cells, sizes.pixels, strict=True)]
    in_axis = max(4 * axis[1] * axis[2] for axis in axes)  # of positions, in units of 1 / (2 · pixels) cells
    largest = max(in_axis, channels * cells[0] * cells[1], channels * logits.stride(1))
    arguments: dict[str, Any] = {
        "prediction": logits,
        "target": labels,
        "tallies": tallies,
        "shifts": shifts,
        "inverses": inverses,
        "classes": classes,
        "of_positive": float(weight.numerator),
        "of_negative": float(weight.denominator - weight.numerator),
        "batch": batch,
        "channels": channels,
        **dict(zip(("axis_y", "axis_x"), axes, strict=True)),
        **dict(zip(("from_b", "from_c", "from_y", "from_x"), logits.stride(), strict=True)),
        **dict(zip(("label_b", "label_c", "label_y", "label_x"), labels.stride(), strict=True)),
        "KIND": _KINDS[kind],
        "IGNORE": 0 if ignore is None else int(ignore) if kind == "cross_entropy" else ignore,
        "HAS_IGNORE": ignore is not None,
        "TALLIES": tallies.shape[-1] if counted else 0,
        "COLUMNS": blocks.columns,
        # 64 bits only where they are needed, as dividing them takes a call.
        "INDEX": tl.int64 if largest >= 2**31 else tl.int32,
    }
    over_pixels = {
        "losses": losses,
        "counts": counts,
        "tiles": tiles,
        "blocks_y": blocks.down,
        "blocks_x": blocks.across,
        "NEEDS_GRADIENT": needs_gradient,
        "ROWS": blocks.rows,
        "LANES": lanes,
    }
    launch(upsampled_loss_forward_pixels, (programs,), device, arguments | over_pixels, **_PIXEL_OPTIONS)
    gradient = (
        _gradient(sizes, arguments, kind == "unit_l1") if needs_gradient else logits.new_empty(0, dtype=torch.float32)
    )
    loss, divisor = torch.empty((), device=device), torch.empty((), device=device)
    terms = channels if kind == "unit_l1" else 1
    sums = {"losses": losses, "counts": counts, "loss": loss, "divisor": divisor, "programs": programs, "terms": terms}
    launch(upsampled_loss_forward_mean, (1,), device, {**sums, "BLOCK": 1024}, num_warps=4)
    if kind == "two_class" and needs_gradient:
        gradient = torch.cat([-gradient, gradient], 1)
    return loss, gradient, divisor


def _gradient(sizes: _Sizes, arguments: dict[str, Any], whole: bool) -> Tensor:
    """Gradient of the sum of the losses; `whole` where a lane needs all channels of a pixel."""
    batch, channels, cells, _ = sizes
    blocks = _pixel_blocks(sizes)
    columns = triton.next_power_of_2(channels)
    columns = columns if whole else min(columns, _CHANNELS)
    groups = -(-channels // columns)
    # Many channels are shared out among warps.
    warps = min(max(columns // _CHANNELS, 1), 32)
    tiles = -(-(batch * (cells[1] + 1) - 1) // 31)
    split = _split(sizes, tiles * groups * warps)
    parts = -(-blocks.down // split.down) * blocks.across
    device = arguments["prediction"].device
    gradient = torch.empty(parts, batch, channels, *cells, device=device)
    over_cells = {
        "gradient": gradient,
        "tiles": tiles,
        "groups": groups,
        "height": split.height,
        "parts_x": blocks.across,
        "part_rows": split.down * blocks.rows,
        "width": blocks.across * blocks.columns,
        "CHANNELS": columns,
        "LANES": 32,
    }
    programs = tiles * groups * parts * -(-cells[0] // split.height)
    launch(
        upsampled_loss_forward_cells,
        (programs,),
        device,
        arguments | over_cells,
        num_warps=warps,
        maxnreg=_CELL_REGISTERS,
    )
    return gradient[0] if parts == 1 else gradient.sum(0)


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
