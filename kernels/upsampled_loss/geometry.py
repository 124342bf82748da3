"""Where pixels lie between cells. Between two neighbouring centres of cells is a band of rows or columns of pixels.

An axis is a tuple (cells, pixels, cells : pixels in lowest terms, 1 / (2 · those pixels)). In lowest terms weights are
exact in float32 for all ratios that are powers of two. Band i lies between cells i − 1 and i, so that there is one more
band than cells: the first and the last are half as wide and see one cell only.
"""

import triton
import triton.language as tl


@triton.jit
def first_pixel(band, axis):
    """First pixel of a band from 0 to cells + 1; that of the one after the last is the number of pixels."""
    _, pixels, low_cells, low_pixels, _ = axis
    # Pixel x lies at ((2x + 1) cells / pixels − 1) / 2 cells.
    first = (low_pixels * (2 * band - 1) + low_cells - 1) // (2 * low_cells)
    return tl.where(band <= 0, 0, tl.minimum(first, pixels))


@triton.jit
def interpolation_weights(first, band, axis):
    """(start, step): the weight of cell `band` in pixel `first` + i of that band is (start + i · step) · axis[4].

    The rest is the weight of the cell before. Outside the outermost centres it stays what it is there.
    """
    cells, _, low_cells, low_pixels, _ = axis
    unit = 2 * low_pixels
    at = tl.minimum(tl.maximum((2 * first + 1) * low_cells - low_pixels, 0), unit * (cells - 1))
    return at - unit * (band - 1), tl.where((band > 0) & (band < cells), 2 * low_cells, 0)


@triton.jit
def neighbours(band, axis):
    """Cells before and after a band, the only one twice at the border."""
    cells, _, _, _, _ = axis
    return tl.maximum(band - 1, 0), tl.minimum(band, cells - 1)


@triton.jit
def edge(left, right):
    """The line between two neighbouring cells of a row: the value at the left one and its change to the right one."""
    left, right = left.to(tl.float32), right.to(tl.float32)
    return left, right - left
