"""The pass over pixels: their losses and, for cross-entropy, what the pass over cells needs of each.

A square is what lies between four neighbouring centres of cells; all its pixels interpolate the same four logits. A
lane has a block of one square's pixels in its registers and goes through the channels: four loads serve them all, no
lane needs another before the last sum, and neighbouring lanes read neighbouring cells. For 16 pixels and a channel of
cross-entropy that is 132 instructions on sm_90: 16 each of FFMA (the logit), FFMA and MUFU (its exponential), FADD
(their sum), ISETP and FSEL (the logit of the label); what is done for all 16 is the rest.
"""

import triton
import triton.language as tl

from .geometry import edge, first_pixel, interpolation_weights, neighbours
from .lanes import load_lanes, store_lanes
from .pixel_losses import balanced_bce, l1, weights_of_signs

CROSS_ENTROPY, UNIT_L1, L1, BCE = 0, 1, 2, 3
_ENTROPY = tl.constexpr(CROSS_ENTROPY)
_UNIT = tl.constexpr(UNIT_L1)
_L1 = tl.constexpr(L1)
_BCE = tl.constexpr(BCE)
_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _add(total, excess, x):
    """Kahan's sum: the total, and what rounding has added to it. The loss is one number: no other error cancels it."""
    x -= excess
    rounded = total + x
    return rounded, (rounded - total) - x


@triton.jit
def _next(cells, stride):
    """The same cells of the next channel."""
    upper_left, upper_right, lower_left, lower_right = cells
    return upper_left + stride, upper_right + stride, lower_left + stride, lower_right + stride


@triton.jit
def _interpolated(cells, across, down):
    """Logits of all pixels of a block, (ROWS, COLUMNS, LANES), with the roundings that the pass over cells has."""
    upper_left, upper_right, lower_left, lower_right = cells
    upper, upper_slope = edge(tl.load(upper_left), tl.load(upper_right))
    lower, lower_slope = edge(tl.load(lower_left), tl.load(lower_right))
    start = upper[None, :] + down[:, None] * (lower - upper)[None, :]
    step = upper_slope[None, :] + down[:, None] * (lower_slope - upper_slope)[None, :]
    return start[:, None, :] + across[None, :, :] * step[:, None, :]


@triton.jit
def _exponentials(first, stride, channels, label, across, down, shift):
    """Σ exp(logit) / 2^shift of all pixels of a block, and the binary logarithm of its term at the label."""
    total = tl.zeros(label.shape, tl.float32)
    at_label = tl.zeros(label.shape, tl.float32)
    cells = first
    for channel in tl.range(0, channels):
        z = _interpolated(cells, across, down) * _LOG2_E - shift
        cells = _next(cells, stride)
        total += tl.exp2(z)
        at_label = tl.where(label == channel, z, at_label)
    return total, at_label


@triton.jit
def upsampled_loss_forward_pixels(
    prediction, target, tallies, losses, counts, shifts, inverses, classes,
    of_positive, of_negative, batch, channels, axis_y, axis_x, tiles, blocks_y, blocks_x,
    from_b, from_c, from_y, from_x, label_b, label_c, label_y, label_x,
    KIND: tl.constexpr, IGNORE: tl.constexpr, HAS_IGNORE: tl.constexpr, NEEDS_GRADIENT: tl.constexpr,
    TALLIES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Sum of the losses and number of valid pixels of one block of LANES squares.

    For cross-entropy also, of every pixel, 2^shift / Σ exp(logit) (0 where ignored, NaN where the label is no class),
    that shift and the class (−1 where ignored), each (batch, rows of pixels, squares of a row, blocks_x · COLUMNS).
    """
    program = tl.program_id(0)
    lane = (program % tiles) * LANES + tl.arange(0, LANES)
    block_x = program // tiles % blocks_x
    block_y = program // tiles // blocks_x % blocks_y
    band_y = (program // tiles // blocks_x // blocks_y).to(INDEX)
    squares = axis_x[0] + 1
    there = lane < batch * squares
    image = tl.minimum(lane // squares, batch - 1).to(tl.int64)
    band_x = (lane % squares).to(INDEX)

    first_x = first_pixel(band_x, axis_x) + block_x * COLUMNS
    first_y = first_pixel(band_y, axis_y) + block_y * ROWS
    x = first_x[None, :] + tl.arange(0, COLUMNS)[:, None]
    y = first_y + tl.arange(0, ROWS)
    inside_x = there[None, :] & (x < first_pixel(band_x + 1, axis_x)[None, :])
    inside_y = y < first_pixel(band_y + 1, axis_y)
    inside = inside_y[:, None, None] & inside_x[None, :, :]
    start, step = interpolation_weights(first_x, band_x, axis_x)
    across = (start[None, :] + tl.arange(0, COLUMNS)[:, None] * step[None, :]).to(tl.float32) * axis_x[4]
    start, step = interpolation_weights(first_y, band_y, axis_y)
    down = (start + tl.arange(0, ROWS) * step).to(tl.float32) * axis_y[4]

    above, below = neighbours(band_y, axis_y)
    left, right = neighbours(band_x, axis_x)
    at_left = prediction + image * from_b + left.to(tl.int64) * from_x
    at_right = prediction + image * from_b + right.to(tl.int64) * from_x
    above_offset = above.to(tl.int64) * from_y
    below_offset = below.to(tl.int64) * from_y
    first = (at_left + above_offset, at_right + above_offset, at_left + below_offset, at_right + below_offset)
    # Held inside the image, labels need no mask.
    label_at_x = tl.minimum(x, axis_x[1] - 1).to(tl.int64) * label_x
    label_at_y = tl.minimum(y, axis_y[1] - 1).to(tl.int64) * label_y
    label_of = (target + image * label_b)[None, None, :] + label_at_x[None, :, :] + label_at_y[:, None, None]

    if KIND == _ENTROPY:
        wide = load_lanes(label_of)
        live = inside & (wide != IGNORE) if HAS_IGNORE else inside
        known = wide.to(tl.uint64, bitcast=True) < channels
        label = tl.where(live & known, wide.to(tl.int32), -1)

        # No logit of a square is greater than the greatest of its cells'.
        bound = tl.full([LANES], -float("inf"), tl.float32)
        cells = first
        for _ in tl.range(0, channels):
            upper_left, upper_right, lower_left, lower_right = cells
            upper = tl.maximum(tl.load(upper_left), tl.load(upper_right))
            lower = tl.maximum(tl.load(lower_left), tl.load(lower_right))
            bound = tl.maximum(bound, tl.maximum(upper, lower).to(tl.float32))
            cells = _next(cells, from_c)
        shift = tl.broadcast_to((bound * _LOG2_E)[None, None, :], live.shape)
        total, at_label = _exponentials(first, from_c, channels, label, across, down, shift)
        # Cells may differ so much that all a pixel's exponentials vanish beside the bound: then with its own maximum.
        if tl.max((live & (total < 1e-20)).to(tl.int32)) > 0:
            top = tl.full(live.shape, -float("inf"), tl.float32)
            cells = first
            for _ in tl.range(0, channels):
                top = tl.maximum(top, _interpolated(cells, across, down))
                cells = _next(cells, from_c)
            shift = top * _LOG2_E
            total, at_label = _exponentials(first, from_c, channels, label, across, down, shift)
        # A label that is no class cannot raise here: its pixel becomes NaN.
        total = tl.where(live & ~known, float("nan"), total)
        loss = tl.where(live, (tl.log2(total) - at_label) * _LN_2, 0.0).to(tl.float64)
        count = live.to(tl.int32)
        if NEEDS_GRADIENT:
            width = blocks_x * COLUMNS
            slot = ((image * axis_y[1] + first_y) * squares + band_x) * width + block_x * COLUMNS
            across_rows = tl.arange(0, ROWS)[:, None, None] * (squares * width)
            slot = slot[None, None, :] + across_rows + tl.arange(0, COLUMNS)[None, :, None]
            written = inside_y[:, None, None] & there[None, None, :]
            written = tl.broadcast_to(written, live.shape)
            store_lanes(shifts + slot, shift, written)
            store_lanes(inverses + slot, tl.where(live, 1.0 / total, 0.0), written)
            store_lanes(classes + slot, label.to(tl.int16), written)
    elif KIND == _UNIT:
        live = inside
        if HAS_IGNORE:
            live = inside & (load_lanes(label_of) != IGNORE)
        square = tl.zeros([ROWS, COLUMNS, LANES], tl.float32)
        cells = first
        for _ in tl.range(0, channels):
            z = _interpolated(cells, across, down)
            cells = _next(cells, from_c)
            square += z * z
        scale = 1.0 / tl.maximum(tl.sqrt(square), 1e-12)
        partial = tl.zeros([ROWS, COLUMNS, LANES], tl.float32)
        excess = tl.zeros([ROWS, COLUMNS, LANES], tl.float32)
        cells = first
        for channel in tl.range(0, channels):
            z = _interpolated(cells, across, down)
            cells = _next(cells, from_c)
            label = load_lanes(label_of + tl.cast(channel, tl.int64) * label_c).to(tl.float32)
            partial, excess = _add(partial, excess, tl.where(live, tl.abs(z * scale - label), 0.0))
        loss = partial.to(tl.float64) - excess
        count = live.to(tl.int32)
    else:
        if KIND == _BCE:
            of_positive, of_negative = weights_of_signs(of_positive, of_negative, tallies, TALLIES)
        partial = tl.zeros([ROWS, COLUMNS, LANES], tl.float32)
        excess = tl.zeros([ROWS, COLUMNS, LANES], tl.float32)
        count = tl.zeros([ROWS, COLUMNS, LANES], tl.int32)
        cells = first
        for channel in tl.range(0, channels):
            z = _interpolated(cells, across, down)
            cells = _next(cells, from_c)
            label = load_lanes(label_of + tl.cast(channel, tl.int64) * label_c)
            live = inside & (label != IGNORE) if HAS_IGNORE else inside
            if KIND == _L1:
                one = l1(z, label.to(tl.float32), live)[0]
            else:
                one = balanced_bce(z, label.to(tl.float32), live, of_positive, of_negative)[0]
            partial, excess = _add(partial, excess, one)
            count += live.to(tl.int32)
        loss = partial.to(tl.float64) - excess
    summed = tl.sum(tl.sum(tl.sum(loss, 0), 0), 0)
    if KIND == _BCE:
        summed /= tl.maximum(of_positive + of_negative, 1.0)
    tl.store(losses + program, summed)
    tl.store(counts + program, tl.sum(tl.sum(tl.sum(count, 0), 0), 0))
