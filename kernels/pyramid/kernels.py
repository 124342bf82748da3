"""Kernels that make the operands of a pyramid from its maps, and gradients of the maps from theirs."""

import triton
import triton.language as tl

from .tiles import pixels


@triton.jit
def _copied(
    map, rows, tokens, channels, row_stride, height, width, down, across, from_b, from_c, from_y, from_x,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, TO_ROWS: tl.constexpr,
):  # fmt: skip
    """Copies ROWS tokens and CHANNELS channels of a map to rows of a matrix, 0 beyond the border, or of rows to a map.

    Tokens stand in tiles of HIGH × WIDE pixels, or where HIGH is 0 pixel by pixel. A block reads and writes whole
    sectors whether a map has its channels or its pixels side by side.
    """
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    if HIGH > 0:
        tile = token // (HIGH * WIDE)
        image = tile // across // down
        y = tile // across % down * HIGH + token % (HIGH * WIDE) // WIDE
        x = tile % across * WIDE + token % WIDE
    else:
        image = token // width // height
        y = token // width % height
        x = token % width
    known = (token < tokens)[:, None] & (channel < channels)[None, :]
    inside = known & ((y < height) & (x < width))[:, None]
    place = tl.cast(image, tl.int64) * from_b + tl.cast(y, tl.int64) * from_y + tl.cast(x, tl.int64) * from_x
    in_map = map + place[:, None] + (tl.cast(channel, tl.int64) * from_c)[None, :]
    in_rows = rows + tl.cast(token, tl.int64)[:, None] * row_stride + channel[None, :]
    if TO_ROWS:
        tl.store(in_rows, tl.load(in_map, mask=inside, other=0.0), mask=known)
    else:
        tl.store(in_map, tl.load(in_rows, mask=inside, other=0.0), mask=inside)


@triton.jit
def pyramid_forward_rows(
    map, rows, tokens, channels, row_stride, height, width, down, across, from_b, from_c, from_y, from_x,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A map as rows of a matrix."""
    _copied(
        map, rows, tokens, channels, row_stride, height, width, down, across, from_b, from_c, from_y, from_x,
        HIGH, WIDE, ROWS, CHANNELS, True,
    )  # fmt: skip


@triton.jit
def pyramid_backward_maps(
    map, rows, tokens, channels, row_stride, height, width, down, across, from_b, from_c, from_y, from_x,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Rows of a matrix as the gradient of a map."""
    _copied(
        map, rows, tokens, channels, row_stride, height, width, down, across, from_b, from_c, from_y, from_x,
        HIGH, WIDE, ROWS, CHANNELS, False,
    )  # fmt: skip


@triton.jit
def _position(pixel, cells, pixels):
    """Position in units of 1/(2 pixels) cells, an integer, held between the centres of the outermost cells."""
    at = (2 * tl.cast(pixel, tl.int64) + 1) * cells - pixels
    return tl.minimum(tl.maximum(at, 0), 2 * tl.cast(pixels, tl.int64) * (cells - 1))


@triton.jit
def pyramid_forward_operands(
    left, rows, levels, own, images, height, width, down, across,
    HIGH: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Weights of interpolation, `left` from column `own` on, and the table of rows of the right operand.

    A program makes BLOCK columns of a tile, whose weights are the same in all images, and writes them for each.
    `levels` has rows (height, width, height and width of a patch, first slot, first row, remainder): the remainder is 1
    where the slots hold what rounding has left of the weights in those before them.
    """
    tile = tl.program_id(0)
    first = tl.program_id(1) * BLOCK
    slot = first + tl.arange(0, BLOCK)
    _, y, x, inside = pixels(tile, height, width, down, across, HIGH, WIDE)
    top = tile // across * HIGH
    start = tile % across * WIDE
    # Differences of positions in a tile are integers below 2²⁴ for images up to 2¹⁷ pixels wide: exact in fp32.
    unit_y = tl.cast(2 * height, tl.float32)
    unit_x = tl.cast(2 * width, tl.float32)
    dtype = left.dtype.element_ty
    row = tl.where(slot < own, slot, 0)
    of_image = tl.zeros([BLOCK], tl.int32)
    weight = tl.zeros([HIGH * WIDE, BLOCK], tl.float32)
    for i in tl.static_range(len(levels)):
        cells_y = levels[i][0]
        cells_x = levels[i][1]
        patch_y = levels[i][2]
        patch_x = levels[i][3]
        local = slot - levels[i][4]
        if (first < levels[i][4] + patch_y * patch_x) & (first + BLOCK > levels[i][4]):
            mine = (local >= 0) & (local < patch_y * patch_x)
            first_y = _position(top, cells_y, height) // (2 * height)
            first_x = _position(start, cells_x, width) // (2 * width)
            at_y = (_position(y, cells_y, height) - 2 * height * first_y).to(tl.float32)
            at_x = (_position(x, cells_x, width) - 2 * width * first_x).to(tl.float32)
            cell_y = local // patch_x
            cell_x = local % patch_x
            away_y = tl.abs(at_y[:, None] - (unit_y * cell_y)[None, :])
            away_x = tl.abs(at_x[:, None] - (unit_x * cell_x)[None, :])
            both = tl.maximum(unit_y - away_y, 0.0) * tl.maximum(unit_x - away_x, 0.0)
            both = tl.div_rn(both, unit_y * unit_x)
            both = tl.where(levels[i][6] == 1, both - both.to(dtype).to(tl.float32), both)
            weight = tl.where(mine[None, :] & inside[:, None], both, weight)
            # Cells beyond the border weigh nothing.
            at_cell = tl.minimum(first_y + cell_y, cells_y - 1) * cells_x + tl.minimum(first_x + cell_x, cells_x - 1)
            row = tl.where(mine, (at_cell + levels[i][5]).to(tl.int32), row)
            of_image = tl.where(mine, cells_y * cells_x, of_image)
    written = (slot >= own) & (slot < K)
    rounded = weight.to(dtype)
    for image in tl.range(0, images):
        place = tl.cast(image, tl.int64) * (down * across) + tile
        tl.store(rows + place * K + slot, row + image * of_image, mask=slot < K)
        token = place * (HIGH * WIDE) + tl.arange(0, HIGH * WIDE)
        tl.store(left + token[:, None] * K + slot[None, :], rounded, mask=written[None, :])


@triton.jit
def _first_pixel(cell, cells, pixels):
    """First of the pixels that touch a cell: those after the centre of the one before."""
    return tl.where(cell == 0, 0, (tl.cast(pixels, tl.int64) * (2 * cell - 1) - cells) // (2 * cells) + 1)


@triton.jit
def pyramid_backward_cells(
    patches, gradient, count, cells_y, cells_x, patch_y, patch_x, slot, slots, parts, tiles_y, tiles_x,
    height, width, down, across, padded,
    HIGH: tl.constexpr, WIDE: tl.constexpr, CELLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of cells of a level: the sum of what the patches of all tiles that touch them have, in a fixed order.

    Args:
        patches: (tiles, slots, channels).
        gradient: (count, channels), the cells of some images.
        slot: the first one of the level, of `parts` times the cells of a patch.
        tiles_y, tiles_x: the tiles that touch a cell, at most.
    """
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    image = cell // cells_x // cells_y
    y = cell // cells_x % cells_y
    x = cell % cells_x
    first_y = _first_pixel(y, cells_y, height) // HIGH
    first_x = _first_pixel(x, cells_x, width) // WIDE
    total = tl.zeros([CELLS, BLOCK], tl.float32)
    for i in tl.range(0, tiles_y):
        tile_y = first_y + i
        patch_row = y - _position(tile_y * HIGH, cells_y, height) // (2 * height)
        there_y = (cell < count) & (tile_y < down) & (patch_row >= 0) & (patch_row < patch_y)
        for j in tl.range(0, tiles_x):
            tile_x = first_x + j
            patch_column = x - _position(tile_x * WIDE, cells_x, width) // (2 * width)
            there = there_y & (tile_x < across) & (patch_column >= 0) & (patch_column < patch_x)
            tile = (tl.cast(image, tl.int64) * down + tile_y) * across + tile_x
            at = slot + patch_row * patch_x + patch_column
            for part in tl.range(0, parts):
                source = ((tile * slots + at + part * (patch_y * patch_x)) * padded)[:, None] + channel[None, :]
                total += tl.load(patches + source, mask=there[:, None], other=0.0).to(tl.float32)
    sink = gradient + (tl.cast(cell, tl.int64) * padded)[:, None] + channel[None, :]
    tl.store(sink, total.to(gradient.dtype.element_ty), mask=(cell < count)[:, None])
