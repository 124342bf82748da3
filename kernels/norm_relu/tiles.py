"""Device functions of `norm_relu`: which part of a map a program works on, and where its elements are.

A tile is CHANNELS × PIXELS of one image. Strides are those of (image, channel, row, column).
"""

import triton
import triton.language as tl


@triton.jit
def place(channels, images, parts, span, pixels, CHANNELS: tl.constexpr):
    """A program's batch and row of sums in it, image of all, channels, and run of pixels [begin, end).

    Images of a batch are neighbours, and so are parts of an image.
    """
    blocks = tl.cdiv(channels, CHANNELS)
    run = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    begin = run % parts * span
    batch = run // (images * parts)
    return batch, run - batch * images * parts, run // parts, channel, begin, tl.minimum(begin + span, pixels)


@triton.jit
def rows_of(numbers, batch, rows, channels, NUMBERS: tl.constexpr):
    """Where those of a batch are in (batches, NUMBERS, rows, channels)."""
    return numbers + tl.cast(batch, tl.int64) * NUMBERS * rows * channels


@triton.jit
def offsets(strides, image, channel, pixel, width, FLAT: tl.constexpr):
    """Of a tile. FLAT: rows follow each other without gaps, so that pixels are columns of one row."""
    base = tl.cast(image, tl.int64) * strides[0] + tl.cast(channel, tl.int64)[:, None] * strides[1]
    if FLAT:
        within = tl.cast(pixel, tl.int64) * strides[3]
    else:
        row = pixel // width
        within = tl.cast(row, tl.int64) * strides[2] + tl.cast(pixel - row * width, tl.int64) * strides[3]
    return base + within[None, :]


@triton.jit
def merged(moments, rows, channel, channels, ROWS: tl.constexpr):
    """Number, mean and squared deviations of channels, from those of all runs of pixels (Chan et al. 1983).

    Sums are of what exceeds the mean of the first run.
    """
    mask = (channel < channels)[None, :]
    stride = tl.cast(rows, tl.int64) * channels
    pilot = load_vector(moments + stride, channel, channels)
    count = tl.zeros([channel.shape[0]], tl.float32)
    excess = tl.zeros([channel.shape[0]], tl.float32)
    for start in tl.range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        source = moments + tl.cast(row, tl.int64) * channels + channel[None, :]
        own = tl.load(source, mask=mask & (row < rows), other=0.0)
        apart = tl.load(source + stride, mask=mask & (row < rows), other=0.0) - pilot[None, :]
        count += tl.sum(own, 0)
        excess += tl.sum(own * apart, 0)
    count = tl.where(channel < channels, count, 1.0)
    excess = excess / count
    squares = tl.zeros([channel.shape[0]], tl.float32)
    for start in tl.range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        source = moments + tl.cast(row, tl.int64) * channels + channel[None, :]
        own = tl.load(source, mask=mask & (row < rows), other=0.0)
        apart = tl.load(source + stride, mask=mask & (row < rows), other=0.0) - pilot[None, :] - excess[None, :]
        within = tl.load(source + 2 * stride, mask=mask & (row < rows), other=0.0)
        squares += tl.sum(within + own * apart * apart, 0)
    return count, pilot + excess, squares


@triton.jit
def inverse_root(x):
    """1/√x: the hardware's, which errs by several roundings, corrected once."""
    r = tl.rsqrt(x)
    return r * (1.5 - 0.5 * x * r * r)


@triton.jit
def summed(sums, rows, channel, channels, ROWS: tl.constexpr):
    """A sum over the rows, by channel, in fp64."""
    total = tl.zeros([channel.shape[0]], tl.float64)
    for start in tl.range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        source = sums + tl.cast(row, tl.int64) * channels + channel[None, :]
        total += tl.sum(tl.load(source, mask=(row < rows) & (channel < channels)[None, :], other=0.0).to(tl.float64), 0)
    return total


@triton.jit
def load_vector(vector, channel, channels):
    """Of channels, in fp32."""
    return tl.load(vector + channel, mask=channel < channels, other=0.0)


@triton.jit
def normalised(deviation, scale, shift):
    """Of y less its mean: in all kernels alike, as the side of the ReLU depends on it."""
    scale = tl.broadcast_to(scale[:, None], deviation.shape)
    return tl.fma(deviation, scale, tl.broadcast_to(shift[:, None], deviation.shape))
