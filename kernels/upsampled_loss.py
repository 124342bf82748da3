"""Upsampled losses on Triton: the loss and, where it is needed, the gradient of the cells, in one pass over the pixels.

A program owns a tile of cells, rows × columns of one image, and visits every pixel that touches them, so that each cell
sums its gradient from its pixels alone, in a fixed order. Pixels that touch cells of two programs are computed by both;
their loss is counted by the one that owns the cell above and to the left of the pixel.

Between two rows of cells (a band), upsampled logits are L₀ + λ (L₁ − L₀), where L₀ and L₁ (pixels, channels) are rows
stretched to full width by a matrix product with the weights of interpolation. A band's share of the gradient is summed
over its rows of pixels as Σ (1 − λ) G and Σ λ G, and shrunk by the transposed product. So products cost little, logits
live in registers, and each is exponentiated once.

Columns of a tile are the channels of a pixel where the loss couples them (cross-entropy, unit vectors). Else each
channel of each image is a map of its own, and the columns are such maps.
"""

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch

CROSS_ENTROPY, UNIT_L1, L1, BCE = 0, 1, 2, 3
_KINDS = {"cross_entropy": CROSS_ENTROPY, "unit_l1": UNIT_L1, "l1": L1, "balanced_bce": BCE, "two_class": BCE}

_ENTROPY = tl.constexpr(CROSS_ENTROPY)
_UNIT = tl.constexpr(UNIT_L1)
_L1 = tl.constexpr(L1)
_BCE = tl.constexpr(BCE)


@triton.jit
def _first_pixel(band, cells, pixels):
    """First of the pixels with centres between those of cells `band` and `band` + 1, band from -1 to cells."""
    # Pixel x lies at ((2x + 1) cells − pixels) / (2 pixels) cells. Band −1 begins at the border.
    first = (pixels * (2 * band + 1) + cells - 1) // (2 * cells)
    return tl.where(band < 0, 0, tl.minimum(first, pixels))


@triton.jit
def _entropy(z, y, live, columns, channels):
    """Loss and gradient of cross-entropy; z (pixels, channels), y (pixels)."""
    z = tl.where((columns < channels)[None, :], z, -float("inf"))
    hit = columns[None, :] == y[:, None]
    top = tl.max(z, 1)
    at_label = tl.sum(tl.where(hit, z, 0.0), 1)
    e = tl.exp(z - top[:, None])
    total = tl.sum(e, 1)
    # A label that is no class cannot raise here: its pixel becomes NaN.
    keep = tl.where(live, tl.where((y < 0) | (y >= channels), float("nan"), 1.0), 0.0)
    loss = tl.where(live, (tl.log(total) + (top - at_label)) * keep, 0.0)
    return loss, e * (keep / total)[:, None] - tl.where(hit, keep[:, None], 0.0)


@triton.jit
def _sign(x):
    """-1, 0 or 1; NaN of NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


@triton.jit
def _unit(z, y, live):
    """Loss and gradient of |z / max(‖z‖, ε) − y|; z and y (pixels, channels), 0 beyond the channels."""
    norm = tl.sqrt(tl.sum(z * z, 1))
    scale = 1.0 / tl.maximum(norm, 1e-12)
    unit = z * scale[:, None]
    residual = tl.where(live[:, None], unit - y, 0.0)
    sign = _sign(residual)
    # What lies along z is lost, unless the norm is clamped.
    along = tl.where(norm < 1e-12, 0.0, tl.sum(sign * unit, 1))
    return tl.sum(tl.abs(residual), 1), (sign - unit * along[:, None]) * scale[:, None]


@triton.jit
def _absolute(z, y, live):
    """Loss and gradient of |z − y|, elementwise."""
    residual = tl.where(live, z - y, 0.0)
    return tl.abs(residual), _sign(residual)


@triton.jit
def _balanced(z, y, live, of_positive, of_negative):
    """Loss and gradient of weighted binary cross-entropy, elementwise."""
    positive = y >= 0.5
    weight = tl.where(live, tl.where(positive, of_positive, of_negative), 0.0)
    s = tl.where(positive, -z, z)
    # softplus(s) and its derivative σ(s), from e = exp(−|s|) ≤ 1; log(1 + e) with the digits that 1 + e drops.
    e = tl.exp(-tl.abs(s))
    one = 1.0 + e
    loss = tl.maximum(s, 0.0) + tl.log(one) + (e - (one - 1.0)) / one
    slope = tl.where(s > 0, 1.0, e) / one
    return weight * loss, weight * tl.where(positive, -slope, slope)


@triton.jit
def _add(total, excess, x):
    """Kahan's sum: the total, and what rounding has added to it. The loss is one number: no other error cancels it."""
    x -= excess
    rounded = total + x
    return rounded, (rounded - total) - x


@triton.jit
def _tally_kernel(
    target, tallies, channels, height, width, rows, stride_b, stride_c, stride_y, stride_x,
    IGNORE: tl.constexpr, HAS_IGNORE: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Numbers of negative and of valid labels in every PROGRAMS-th row of the batch."""
    negatives = tl.zeros([BLOCK], tl.int32)
    valid = tl.zeros([BLOCK], tl.int32)
    for row in tl.range(tl.program_id(0), rows, PROGRAMS):
        image = tl.cast(row // height // channels, tl.int64)
        channel = tl.cast(row // height % channels, tl.int64)
        start = target + image * stride_b + channel * stride_c + tl.cast(row % height, tl.int64) * stride_y
        for x in tl.range(0, width, BLOCK):
            pixel = tl.cast(x, tl.int64) + tl.arange(0, BLOCK)
            live = pixel < width
            y = tl.load(start + pixel * stride_x, mask=live, other=0.0)
            if HAS_IGNORE:
                live = live & (y != IGNORE)
            valid += live.to(tl.int32)
            negatives += (live & (y < 0.5)).to(tl.int32)
    tl.store(tallies + tl.program_id(0), tl.sum(negatives))
    tl.store(tallies + PROGRAMS + tl.program_id(0), tl.sum(valid))


@triton.jit
def _loss_kernel(
    prediction, target, tallies, gradient, losses, counts,
    of_positive, of_negative,
    channels, maps, cells_y, cells_x, pixels_y, pixels_x, tiles_y, tiles_x,
    from_b, from_c, from_y, from_x, label_b, label_c, label_y, label_x,
    KIND: tl.constexpr, IGNORE: tl.constexpr, HAS_IGNORE: tl.constexpr, NEEDS_GRADIENT: tl.constexpr,
    TALLIES: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr, PIXELS: tl.constexpr, CELLS: tl.constexpr,
    COLUMNS: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum of the losses and number of valid pixels of one tile of cells, and the gradient of its cells."""
    COUPLED: tl.constexpr = KIND <= _UNIT
    program = tl.program_id(0)
    tile_x = program % tiles_x
    tile_y = program // tiles_x % tiles_y
    group = program // tiles_x // tiles_y
    columns = tl.arange(0, COLUMNS)
    if COUPLED:
        image = group + tl.zeros([COLUMNS], tl.int64)
        channel = columns.to(tl.int64)
        known = columns < channels
        first_map = group.to(tl.int64) * channels
    else:
        first_map = group.to(tl.int64) * COLUMNS
        image = ((group * COLUMNS + columns) // channels).to(tl.int64)
        channel = ((group * COLUMNS + columns) % channels).to(tl.int64)
        known = group * COLUMNS + columns < maps
    if TALLIES > 0:
        tally = tallies + tl.arange(0, TALLIES)
        negatives = tl.sum(tl.load(tally).to(tl.int64))
        of_positive = negatives.to(tl.float32)
        of_negative = (tl.sum(tl.load(tally + TALLIES).to(tl.int64)) - negatives).to(tl.float32)
    of_both = tl.maximum(of_positive + of_negative, 1.0)

    # 64 bits only where they are needed, as dividing them takes a call and the registers around it.
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    first_y = tl.cast(tile_y * TILE_Y, INDEX)
    end_y = tl.minimum(first_y + TILE_Y, cells_y)
    first_x = tl.cast(tile_x * TILE_X, INDEX)
    end_x = tl.minimum(first_x + TILE_X, cells_x)
    # The band above the first row and the one left of the first column belong to other programs, but at the border.
    own_x = tl.where(tile_x == 0, 0, _first_pixel(first_x, cells_x, pixels_x))
    start_x = _first_pixel(first_x - 1, cells_x, pixels_x) if NEEDS_GRADIENT else own_x
    stop_x = _first_pixel(end_x, cells_x, pixels_x)
    start_y = first_y - 1 if NEEDS_GRADIENT else tl.where(tile_y == 0, -1, first_y)
    # Positions are integers in units of 1/unit cells: pixel x lies at (2x + 1) cells − pixels, held between centres of
    # the outermost cells, and cell c at c unit.
    unit_y = 2 * tl.cast(pixels_y, INDEX)
    unit_x = 2 * tl.cast(pixels_x, INDEX)

    # One more cell on each side, which pixels of the tile touch or which touch pixels of the tile.
    cell = first_x - 1 + tl.arange(0, CELLS)
    there = ((cell >= 0) & (cell < cells_x))[:, None] & known[None, :]
    source = prediction + (image * from_b + channel * from_c)[None, :] + cell.to(tl.int64)[:, None] * from_x
    if KIND == _ENTROPY:
        labels = target + group.to(tl.int64) * label_b
    else:
        labels = target + (image * label_b + channel * label_c)[None, :]
    mine = known[:, None] & ((cell >= first_x) & (cell < end_x))[None, :]
    sink = gradient + ((first_map + columns) * (tl.cast(cells_y, tl.int64) * cells_x))[:, None] + cell[None, :]

    loss_sum = tl.zeros([PIXELS], tl.float32)
    excess = tl.zeros([PIXELS], tl.float32)
    count = tl.zeros([PIXELS], tl.int32)
    below = tl.zeros([COLUMNS, CELLS], tl.float32)
    end_row = _first_pixel(tl.cast(start_y, INDEX), cells_y, pixels_y)
    for band in tl.range(start_y, end_y):
        row = tl.cast(band, INDEX)
        first_row = end_row
        end_row = _first_pixel(row + 1, cells_y, pixels_y)
        counted_x = tl.where((row >= first_y) | (tile_y == 0), own_x, stop_x)
        here = below
        below = tl.zeros([COLUMNS, CELLS], tl.float32)
        # Kept out of registers: what does not change from block to block is wanted once in most tiles.
        for block in tl.range(start_x, stop_x, PIXELS, disable_licm=True):
            upper = tl.load(source + tl.cast(tl.maximum(row, 0), tl.int64) * from_y, mask=there, other=0.0)
            lower = tl.load(source + tl.cast(tl.minimum(row + 1, cells_y - 1), tl.int64) * from_y, mask=there, other=0.0)
            pixel = tl.cast(block, INDEX) + tl.arange(0, PIXELS)
            # Exact in float32: fewer than 2^24 units in a tile.
            at_x = tl.minimum(tl.maximum((2 * pixel + 1) * cells_x - pixels_x, 0), unit_x * (cells_x - 1))
            local = (at_x - (first_x - 1) * unit_x).to(tl.float32)
            centres = (tl.arange(0, CELLS) * unit_x).to(tl.float32)
            weights = tl.maximum(unit_x - tl.abs(local[:, None] - centres[None, :]), 0.0) / unit_x
            if EXACT:
                stretched = tl.dot(weights.to(upper.dtype), upper)
                change = tl.dot(weights.to(lower.dtype), lower) - stretched
            else:
                stretched = tl.dot(weights, upper.to(tl.float32), input_precision=PRECISION)
                change = tl.dot(weights, lower.to(tl.float32), input_precision=PRECISION) - stretched
            inside = pixel < stop_x
            owned = inside & (pixel >= counted_x)
            sum_all = tl.zeros([PIXELS, COLUMNS], tl.float32)
            sum_below = tl.zeros([PIXELS, COLUMNS], tl.float32)
            for y in tl.range(first_row, end_row):
                y = tl.cast(y, INDEX)
                at_y = tl.minimum(tl.maximum((2 * y + 1) * cells_y - pixels_y, 0), unit_y * (cells_y - 1))
                share = (at_y - unit_y * row).to(tl.float32) / unit_y
                z = stretched + share * change
                at = pixel.to(tl.int64) * label_x + tl.cast(y, tl.int64) * label_y
                if KIND == _ENTROPY:
                    label = tl.load(labels + at, mask=inside, other=0)
                    live = inside & (label != IGNORE) if HAS_IGNORE else inside
                    loss, g = _entropy(z, label, live, columns, channels)
                    loss_sum, excess = _add(loss_sum, excess, tl.where(owned, loss, 0.0))
                    count += (live & owned).to(tl.int32)
                elif KIND == _UNIT:
                    label = tl.load(labels + at[:, None], mask=inside[:, None] & known[None, :], other=0.0)
                    live = inside
                    if HAS_IGNORE:
                        first = tl.load(target + group.to(tl.int64) * label_b + at, mask=inside, other=0.0)
                        live = live & (first != IGNORE)
                    loss, g = _unit(z, label.to(tl.float32), live)
                    loss_sum, excess = _add(loss_sum, excess, tl.where(owned, loss, 0.0))
                    count += (live & owned).to(tl.int32)
                else:
                    both = inside[:, None] & known[None, :]
                    label = tl.load(labels + at[:, None], mask=both, other=0.0)
                    live = both & (label != IGNORE) if HAS_IGNORE else both
                    label = label.to(tl.float32)
                    if KIND == _L1:
                        loss, g = _absolute(z, label, live)
                    else:
                        loss, g = _balanced(z, label, live, of_positive, of_negative)
                    loss_sum, excess = _add(loss_sum, excess, tl.where(owned, tl.sum(loss, 1), 0.0))
                    count += tl.where(owned, tl.sum(live.to(tl.int32), 1), 0)
                if NEEDS_GRADIENT:
                    sum_all += g
                    sum_below += share * g
            if NEEDS_GRADIENT:
                here += tl.dot(tl.trans(sum_all - sum_below), weights, input_precision=PRECISION)
                below += tl.dot(tl.trans(sum_below), weights, input_precision=PRECISION)
        if NEEDS_GRADIENT:
            if KIND == _BCE:
                here = tl.div_rn(here, of_both)
            if row >= first_y:
                tl.store(sink + tl.cast(row, tl.int64) * cells_x, here, mask=mine)
    total = tl.sum(loss_sum.to(tl.float64) - excess)
    if KIND == _BCE:
        total /= of_both
    tl.store(losses + program, total)
    tl.store(counts + program, tl.sum(count))


@triton.jit
def _finish_kernel(losses, counts, loss, divisor, programs, terms, BLOCK: tl.constexpr):
    """The mean, from the sums of all programs; `terms` are counted as one."""
    offsets = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    count = tl.zeros([BLOCK], tl.int64)
    for start in tl.range(0, programs, BLOCK):
        mask = start + offsets < programs
        total += tl.load(losses + start + offsets, mask=mask, other=0.0)
        count += tl.load(counts + start + offsets, mask=mask, other=0).to(tl.int64)
    valid = (tl.maximum(tl.sum(count), 1) * terms).to(tl.float64)
    tl.store(loss, (tl.sum(total) / valid).to(tl.float32))
    tl.store(divisor, valid.to(tl.float32))


@triton.jit
def _scale_kernel(grad, gradient, divisor, output, count, BLOCK: tl.constexpr):
    """gradient / divisor · grad, in the dtype of the output; rounded one by one: no rounding is common to all."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < count
    scaled = tl.div_rn(tl.load(gradient + offsets, mask=mask, other=0.0), tl.load(divisor)) * tl.load(grad)
    tl.store(output + offsets, scaled.to(output.dtype.element_ty), mask=mask)


class _Shape(NamedTuple):
    """Tile of logits and warps: pixels × columns / threads is what every thread holds of each of five such tiles."""

    pixels: int
    warps: int


# By columns. Chosen by registers and arithmetic; not yet measured on a GPU.
_SHAPES = {
    16: _Shape(128, 4),
    32: _Shape(128, 4),
    64: _Shape(64, 4),
    128: _Shape(64, 8),
    256: _Shape(32, 8),
    512: _Shape(16, 8),
}

_SLOTS = 264
"""Programs that run at a time, about: two on each multiprocessor of an H200."""


class _Tile(NamedTuple):
    """Cells that a program owns, and the cells along x that its tile of weights holds."""

    y: int
    x: int
    cells: int


@lru_cache(maxsize=256)
def _tile(
    groups: int, cells: tuple[int, int], pixels: tuple[int, int], columns: int, needs_gradient: bool
) -> _Tile:
    """The tile with the least work: rows of blocks of pixels that a multiprocessor goes through, halo included.

    Depends on the sizes alone, so that sums have the same bits in every run.
    """
    width = _SHAPES[columns].pixels
    halo = int(needs_gradient)
    per_y, per_x = pixels[0] / cells[0], pixels[1] / cells[1]
    # With 16 cells, the least of a matrix product, a block of pixels is full from a ratio of pixels / 16 on.
    held = max(16, triton.next_power_of_2(min(int(width / per_x), 64, cells[1] + 2)))

    def work(tile: tuple[int, int]) -> float:
        y, x = tile
        programs = groups * -(-cells[0] // y) * -(-cells[1] // x)
        return max(programs / _SLOTS, 1) * (y + halo) * per_y * -(-int((x + halo) * per_x) // width)

    # Below three cells a side the halo is most of the work.
    high = range(min(3, cells[0]), min(cells[0], 16) + 1)
    broad = range(min(3, cells[1]), min(cells[1], held - 2) + 1)
    y, x = min(((y, x) for y in high for x in broad), key=work)
    return _Tile(y, x, held)


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
    groups = batch if coupled else -(-batch * channels // columns)
    tile = _tile(groups, tuple(cells), tuple(pixels), columns, needs_gradient)
    tiles = [-(-cells[0] // tile.y), -(-cells[1] // tile.x)]
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
        _loss_kernel,
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
            **dict(zip(("from_b", "from_c", "from_y", "from_x"), logits.stride(), strict=True)),
            **dict(zip(("label_b", "label_c", "label_y", "label_x"), labels.stride(), strict=True)),
            "KIND": _KINDS[kind],
            "IGNORE": 0 if ignore is None else int(ignore) if kind == "cross_entropy" else ignore,
            "HAS_IGNORE": ignore is not None,
            "NEEDS_GRADIENT": needs_gradient,
            "TALLIES": tallies.shape[-1] if counted else 0,
            "TILE_Y": tile.y,
            "TILE_X": tile.x,
            "PIXELS": _SHAPES[columns].pixels,
            "CELLS": tile.cells,
            "COLUMNS": columns,
            "WIDE": max(cells[0] * pixels[0], cells[1] * pixels[1]) >= 2**29,
            "EXACT": exact,
            "PRECISION": "tf32" if exact or torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3",
        },
        num_warps=_SHAPES[columns].warps,
    )
    loss, divisor = torch.empty((), device=device), torch.empty((), device=device)
    terms = channels if kind == "unit_l1" else 1
    sums = {"losses": losses, "counts": counts, "loss": loss, "divisor": divisor, "programs": programs, "terms": terms}
    launch(_finish_kernel, (1,), device, {**sums, "BLOCK": 1024}, num_warps=4)
    if kind == "two_class" and needs_gradient:
        gradient = torch.cat([-gradient, gradient], 1)
    return loss, gradient, divisor


def backward(grad: Tensor, prediction: Tensor, gradient: Tensor, divisor: Tensor) -> Tensor:
    """Gradient of the prediction, in its dtype, from what `forward` has kept."""
    output = torch.empty(gradient.shape, dtype=prediction.dtype, device=gradient.device)
    tensors = {"grad": grad, "gradient": gradient, "divisor": divisor, "output": output}
    grid = (triton.cdiv(gradient.numel(), 1024),)
    launch(_scale_kernel, grid, gradient.device, {**tensors, "count": gradient.numel(), "BLOCK": 1024}, num_warps=4)
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
    launch(_tally_kernel, (programs,), labels.device, arguments, num_warps=4)
    return tallies
