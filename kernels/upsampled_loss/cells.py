"""The pass over cells: the gradient of the low-resolution prediction, which every cell sums from its pixels.

A lane owns a column of squares (what lies between four neighbouring centres of cells) for a few channels and walks
down its pixels. Of each square it sums the gradient of the logits with four weights, 1, λ, μ and λμ, where λ and μ are
the weights of the right and of the lower cells: what each of the four cells gets is a difference of those sums. No lane
needs another but once for every row of cells, whose right halves the next lane has. So all sums have a fixed order.

For four pixels and eight classes of cross-entropy a row takes 343 instructions on sm_90. Eight are for each logit: FFMA
(itself), FFMA, MUFU and FMUL (its probability), ISETP and FFMA (less one where it is the label's), FADD and FFMA (sums
over the row); six for each class: two FFMA for the line on which its logits lie, four to add the row's sums.
"""

import triton
import triton.language as tl

from .geometry import edge, first_pixel, interpolation_weights, neighbours
from .lanes import load_lanes, load_lanes_where, store_lanes
from .pixel_losses import balanced_bce, l1, unit_l1, weights_of_signs
from .pixels import _BCE, _ENTROPY, _L1, _LOG2_E, _UNIT


@triton.jit
def upsampled_loss_forward_cells(
    prediction, target, tallies, gradient, shifts, inverses, classes,
    of_positive, of_negative, batch, channels, axis_y, axis_x,
    tiles, groups, height, parts_x, part_rows, width,
    from_b, from_c, from_y, from_x, label_b, label_c, label_y, label_x,
    KIND: tl.constexpr, IGNORE: tl.constexpr, HAS_IGNORE: tl.constexpr, TALLIES: tl.constexpr,
    CHANNELS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Gradient of the sum of the losses by `height` rows of cells of CHANNELS channels, from one part of each square.

    A part has part_rows rows and COLUMNS of the `width` columns that squares have in the pass over pixels; `gradient`
    is (parts, batch, channels, cells_y, cells_x).
    """
    program = tl.program_id(0)
    tile = program % tiles
    group = program // tiles % groups
    part = program // tiles // groups % parts_x
    rest = program // tiles // groups // parts_x
    stretches = tl.cdiv(axis_y[0], height)
    part_y = rest // stretches
    first_row = rest % stretches * height
    end_row = tl.minimum(first_row + height, axis_y[0])

    squares = axis_x[0] + 1
    # The last lane has nothing to its right: it is the first of the next tile.
    lane = tile * (LANES - 1) + tl.arange(0, LANES)
    image = tl.minimum(lane // squares, batch - 1).to(tl.int64)
    band_x = (lane % squares).to(INDEX)
    channel = group * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    # Held inside the prediction, loads of cells need no mask; what is beyond is not stored.
    from_channel = (tl.minimum(channel, channels - 1).to(INDEX) * from_c)[:, None]
    left, right = neighbours(band_x, axis_x)
    above = neighbours(first_row.to(INDEX), axis_y)[0].to(tl.int64)
    corner = prediction + image * from_b + above * from_y
    at_left = corner + left.to(tl.int64) * from_x
    at_right = corner + right.to(tl.int64) * from_x
    labels = target + image * label_b
    own_labels = labels[None, :] + (channel.to(tl.int64) * label_c)[:, None]
    begin_x = part * COLUMNS
    first_x = first_pixel(band_x, axis_x) + begin_x
    end_x = first_pixel(band_x + 1, axis_x)
    start_x, step_x = interpolation_weights(first_x, band_x, axis_x)
    if KIND == _BCE:
        of_positive, of_negative = weights_of_signs(of_positive, of_negative, tallies, TALLIES)
        of_both = tl.maximum(of_positive + of_negative, 1.0)
    area = tl.cast(axis_y[0], tl.int64) * axis_x[0]
    into_channel = (channel.to(INDEX) * (axis_y[0] * axis_x[0]))[:, None]
    sink = gradient + (part_y * parts_x + part).to(tl.int64) * batch * channels * area
    sink = sink + image * channels * area + first_row.to(tl.int64) * axis_x[0] + band_x
    kept = (lane < batch * squares) & (band_x < axis_x[0]) & (tl.arange(0, LANES) < LANES - 1)
    kept = known[:, None] & kept[None, :]
    after = tl.broadcast_to(tl.minimum(tl.arange(0, LANES) + 1, LANES - 1)[None, :], [CHANNELS, LANES])

    lower, lower_slope = edge(load_lanes(at_left[None, :] + from_channel), load_lanes(at_right[None, :] + from_channel))
    begun_left = tl.zeros([CHANNELS, LANES], tl.float32)
    begun_right = tl.zeros([CHANNELS, LANES], tl.float32)
    for band in tl.range(first_row, end_row + 1, disable_licm=True):
        band_y = tl.cast(band, INDEX)
        down_a_row = tl.where((band > 0) & (band < axis_y[0]), from_y, 0)
        at_left += down_a_row
        at_right += down_a_row
        upper, upper_slope = lower, lower_slope
        lower, lower_slope = edge(
            load_lanes(at_left[None, :] + from_channel), load_lanes(at_right[None, :] + from_channel)
        )
        fall, twist = lower - upper, lower_slope - upper_slope
        sums = tl.zeros([CHANNELS, LANES], tl.float32)
        sums_x = tl.zeros([CHANNELS, LANES], tl.float32)
        sums_y = tl.zeros([CHANNELS, LANES], tl.float32)
        sums_xy = tl.zeros([CHANNELS, LANES], tl.float32)
        begin_y = first_pixel(band_y, axis_y) + part_y * part_rows
        stop_y = tl.minimum(begin_y + part_rows, first_pixel(band_y + 1, axis_y))
        if KIND == _ENTROPY:
            slot = ((image * axis_y[1] + begin_y) * squares + band_x) * width + begin_x
        at_y, step_y = interpolation_weights(begin_y, band_y, axis_y)
        for y in tl.range(begin_y, stop_y):
            down = at_y.to(tl.float32) * axis_y[4]
            at_y += step_y
            start = upper + down * fall
            step = upper_slope + down * twist
            of_row = tl.zeros([CHANNELS, LANES], tl.float32)
            of_row_x = of_row
            for i in tl.static_range(COLUMNS):
                across = ((start_x + i * step_x).to(tl.float32) * axis_x[4])[None, :]
                z = start + across * step
                if KIND == _ENTROPY:
                    label = tl.load(classes + slot + i).to(tl.int32) - group * CHANNELS
                    # Σ p = 1 whatever the roundings of logits and shift: these are the exponentials that were summed.
                    e = tl.exp2(z * _LOG2_E - tl.load(shifts + slot + i)[None, :])
                    p = e * tl.load(inverses + slot + i)[None, :]
                    g = tl.where(label[None, :] == tl.arange(0, CHANNELS)[:, None], p - 1.0, p)
                else:
                    x = first_x + i
                    inside = x < end_x
                    at = x.to(tl.int64) * label_x + tl.cast(y, tl.int64) * label_y
                    both = known[:, None] & inside[None, :]
                    label = load_lanes_where(own_labels + at[None, :], both)
                    if KIND == _UNIT:
                        z = tl.where(known[:, None], z, 0.0)
                        live = inside
                        if HAS_IGNORE:
                            live = inside & (tl.load(labels + at, mask=inside, other=0.0) != IGNORE)
                        g = unit_l1(z, label.to(tl.float32), live)
                    else:
                        live = both & (label != IGNORE) if HAS_IGNORE else both
                        if KIND == _L1:
                            g = l1(z, label.to(tl.float32), live)[1]
                        else:
                            g = balanced_bce(z, label.to(tl.float32), live, of_positive, of_negative)[1]
                # The compiler may not leave out the zero: −0 + 0 is 0.
                of_row = g if i == 0 else of_row + g
                of_row_x = across * g if i == 0 else of_row_x + across * g
            if KIND == _ENTROPY:
                slot += squares * width
            sums += of_row
            sums_x += of_row_x
            sums_y += down * of_row
            sums_xy += down * of_row_x
        if band > first_row:
            # What a cell gets from the square before it, and from the one after, which the next lane has.
            done = begun_right + (sums_x - sums_xy)
            done += tl.gather(begun_left + ((sums - sums_y) - (sums_x - sums_xy)), after, 1)
            if KIND == _BCE:
                done = tl.div_rn(done, of_both)
            store_lanes(sink[None, :] + into_channel, done, kept)
            sink += axis_x[0]
        begun_right = sums_xy
        begun_left = sums_y - sums_xy
