"""The kernel of upsampled losses: loss and, where it is needed, gradient of the cells, in one pass over the pixels.

A program owns a tile of cells, rows × columns of one image, and visits every pixel that touches them, so that each cell
sums its gradient from its pixels alone, in a fixed order. Pixels that touch cells of two programs are computed by both;
their loss is counted by the one that owns the cell above and to the left of the pixel.

Between two rows of cells (a band), upsampled logits are L₀ + λ (L₁ − L₀), where L₀ and L₁ (pixels, channels) are rows
stretched to full width by a matrix product with the weights of interpolation. A band's part of the gradient is summed
over its rows of pixels as Σ (1 − λ) G and Σ λ G, and shrunk by the transposed product. So products cost little, logits
live in registers, and each is exponentiated once.

Columns of a tile are the channels of a pixel where the loss couples them (cross-entropy, unit vectors). Else each
channel of each image is a map of its own, and the columns are such maps.
"""

import triton
import triton.language as tl

from .pixel_losses import balanced_bce, cross_entropy, l1, unit_l1

CROSS_ENTROPY, UNIT_L1, L1, BCE = 0, 1, 2, 3
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
def _add(total, excess, x):
    """Kahan's sum: the total, and what rounding has added to it. The loss is one number: no other error cancels it."""
    x -= excess
    rounded = total + x
    return rounded, (rounded - total) - x


@triton.jit
def upsampled_loss_forward_tiles(
    prediction, target, tallies, gradient, losses, counts,
    of_positive, of_negative,
    channels, maps, cells_y, cells_x, pixels_y, pixels_x, tiles_y, tiles_x, tile_height, tile_width,
    from_b, from_c, from_y, from_x, label_b, label_c, label_y, label_x,
    KIND: tl.constexpr, IGNORE: tl.constexpr, HAS_IGNORE: tl.constexpr, NEEDS_GRADIENT: tl.constexpr,
    TALLIES: tl.constexpr, PIXELS: tl.constexpr, CELLS: tl.constexpr,
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
    first_y = tl.cast(tile_y * tile_height, INDEX)
    end_y = tl.minimum(first_y + tile_height, cells_y)
    first_x = tl.cast(tile_x * tile_width, INDEX)
    end_x = tl.minimum(first_x + tile_width, cells_x)
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
    if KIND == _ENTROPY:
        labels = target + group.to(tl.int64) * label_b
    else:
        labels = target + (image * label_b + channel * label_c)[None, :]
    mine = ((cell >= first_x) & (cell < end_x))[:, None] & known[None, :]

    loss_sum = tl.zeros([PIXELS], tl.float32)
    excess = tl.zeros([PIXELS], tl.float32)
    count = tl.zeros([PIXELS], tl.int32)
    below = tl.zeros([CELLS, COLUMNS], tl.float32)
    end_row = _first_pixel(tl.cast(start_y, INDEX), cells_y, pixels_y)
    # Loop invariants are computed again: addresses of whole tiles would take the registers of the logits.
    for band in tl.range(start_y, end_y, disable_licm=True):
        row = tl.cast(band, INDEX)
        first_row = end_row
        end_row = _first_pixel(row + 1, cells_y, pixels_y)
        counted_x = tl.where((row >= first_y) | (tile_y == 0), own_x, stop_x)
        here = below
        below = tl.zeros([CELLS, COLUMNS], tl.float32)
        for block in tl.range(start_x, stop_x, PIXELS, disable_licm=True):
            source = prediction + (image * from_b + channel * from_c)[None, :] + cell.to(tl.int64)[:, None] * from_x
            above = tl.cast(tl.maximum(row, 0), tl.int64)
            under = tl.cast(tl.minimum(row + 1, cells_y - 1), tl.int64)
            upper = tl.load(source + above * from_y, mask=there, other=0.0)
            lower = tl.load(source + under * from_y, mask=there, other=0.0)
            pixel = tl.cast(block, INDEX) + tl.arange(0, PIXELS)
            # Exact in float32 for images up to 2^17 wide: fewer than 2^24 units in a tile.
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
                fraction = (at_y - unit_y * row).to(tl.float32) / unit_y
                z = stretched + fraction * change
                at = pixel.to(tl.int64) * label_x + tl.cast(y, tl.int64) * label_y
                if KIND == _ENTROPY:
                    label = tl.load(labels + at, mask=inside, other=0)
                    live = inside & (label != IGNORE) if HAS_IGNORE else inside
                    loss, g = cross_entropy(z, label, live, columns, channels)
                    loss_sum, excess = _add(loss_sum, excess, tl.where(owned, loss, 0.0))
                    count += (live & owned).to(tl.int32)
                elif KIND == _UNIT:
                    label = tl.load(labels + at[:, None], mask=inside[:, None] & known[None, :], other=0.0)
                    live = inside
                    if HAS_IGNORE:
                        first = tl.load(target + group.to(tl.int64) * label_b + at, mask=inside, other=0.0)
                        live = live & (first != IGNORE)
                    loss, g = unit_l1(z, label.to(tl.float32), live)
                    loss_sum, excess = _add(loss_sum, excess, tl.where(owned, loss, 0.0))
                    count += (live & owned).to(tl.int32)
                else:
                    both = inside[:, None] & known[None, :]
                    label = tl.load(labels + at[:, None], mask=both, other=0.0)
                    live = both & (label != IGNORE) if HAS_IGNORE else both
                    label = label.to(tl.float32)
                    if KIND == _L1:
                        loss, g = l1(z, label, live)
                    else:
                        loss, g = balanced_bce(z, label, live, of_positive, of_negative)
                    loss_sum, excess = _add(loss_sum, excess, tl.where(owned, tl.sum(loss, 1), 0.0))
                    count += tl.where(owned, tl.sum(live.to(tl.int32), 1), 0)
                if NEEDS_GRADIENT:
                    sum_all += g
                    sum_below += fraction * g
            if NEEDS_GRADIENT:
                here += tl.dot(tl.trans(weights), sum_all - sum_below, input_precision=PRECISION)
                below += tl.dot(tl.trans(weights), sum_below, input_precision=PRECISION)
        if NEEDS_GRADIENT:
            if KIND == _BCE:
                here = tl.div_rn(here, of_both)
            if row >= first_y:
                area = tl.cast(cells_y, tl.int64) * cells_x
                sink = gradient + ((first_map + columns) * area + tl.cast(row, tl.int64) * cells_x)[None, :]
                tl.store(sink + cell[:, None], here, mask=mine)
    total = tl.sum(loss_sum.to(tl.float64) - excess)
    if KIND == _BCE:
        total /= of_both
    tl.store(losses + program, total)
    tl.store(counts + program, tl.sum(count))
