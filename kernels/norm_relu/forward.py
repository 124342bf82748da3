"""Kernels of the pass forward of `norm_relu`: statistics of a map, and the map normalised."""

import triton
import triton.language as tl

from .tiles import inverse_root, load_vector, merged, normalised, offsets, place, rows_of


@triton.jit
def norm_relu_forward_statistics(
    y, moments, y_strides, channels, rows, images, parts, span, pixels, width,
    FLAT: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Number of pixels, mean, and squared deviations from it, of a run of pixels.

    They are in `moments` (batches, 3, rows, channels), the rows of a batch of so many images.

    Sums are of what exceeds the mean of the run's first tile.
    """
    batch, row, image, channel, begin, end = place(channels, images, parts, span, pixels, CHANNELS)
    inside = (channel < channels)[:, None]
    pixel = begin + tl.arange(0, PIXELS)
    source = offsets(y_strides, image, channel, pixel, width, FLAT)
    tile = tl.load(y + source, mask=inside & (pixel < end)[None, :], other=0.0).to(tl.float32)
    pilot = tl.sum(tile, 1) / tl.minimum(end - begin, PIXELS)
    total = tl.zeros([CHANNELS, PIXELS], tl.float32)
    squares = tl.zeros([CHANNELS, PIXELS], tl.float32)
    for start in tl.range(begin, end, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        mask = inside & (pixel < end)[None, :]
        source = offsets(y_strides, image, channel, pixel, width, FLAT)
        deviation = tl.load(y + source, mask=mask, other=0.0).to(tl.float32) - pilot[:, None]
        deviation = tl.where(mask, deviation, 0.0)
        total += deviation
        squares += deviation * deviation
    count = (end - begin).to(tl.float32)
    excess = tl.sum(total, 1) / count
    sink = rows_of(moments, batch, rows, channels, 3) + tl.cast(row, tl.int64) * channels + channel
    stride = tl.cast(rows, tl.int64) * channels
    tl.store(sink, tl.zeros([CHANNELS], tl.float32) + count, mask=channel < channels)
    tl.store(sink + stride, pilot + excess, mask=channel < channels)
    tl.store(sink + 2 * stride, tl.sum(squares, 1) - excess * excess * count, mask=channel < channels)


@triton.jit
def norm_relu_forward_output(
    y, addend, output, moments, mean, variance, inverse, weight, bias, eps, y_strides, addend_strides, output_strides,
    channels, rows, images, parts, span, pixels, width,
    MERGE: tl.constexpr, ADD: tl.constexpr, RECTIFY: tl.constexpr,
    FLAT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """BN(y) + addend behind a ReLU, or without these.

    MERGE: mean and 1/σ of a batch of so many images, (batches, channels), follow from the moments of `rows` runs of its
    pixels; the programs of its first run write them, and the unbiased variance. Otherwise they are read.
    """
    batch, row, image, channel, begin, end = place(channels, images, parts, span, pixels, CHANNELS)
    mean += batch * channels
    inverse += batch * channels
    if MERGE:
        of_batch = rows_of(moments, batch, rows, channels, 3)
        count, middle, squares = merged(of_batch, rows, channel, channels, ROWS)
        steepness = inverse_root(squares / count + eps)
        first = (channel < channels) & (row == 0)
        tl.store(mean + channel, middle, mask=first)
        tl.store(variance + batch * channels + channel, squares / tl.maximum(count - 1.0, 1.0), mask=first)
        tl.store(inverse + channel, steepness, mask=first)
    else:
        middle, steepness = load_vector(mean, channel, channels), load_vector(inverse, channel, channels)
    scale, shift = load_vector(weight, channel, channels) * steepness, load_vector(bias, channel, channels)
    for start in tl.range(begin, end, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        mask = (channel < channels)[:, None] & (pixel < end)[None, :]
        source = offsets(y_strides, image, channel, pixel, width, FLAT)
        deviation = tl.load(y + source, mask=mask, other=0.0).to(tl.float32) - middle[:, None]
        z = normalised(deviation, scale, shift)
        if ADD:
            source = offsets(addend_strides, image, channel, pixel, width, FLAT)
            z += tl.load(addend + source, mask=mask, other=0.0).to(tl.float32)
        if RECTIFY:
            z = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)
        sink = offsets(output_strides, image, channel, pixel, width, FLAT)
        tl.store(output + sink, z.to(output.dtype.element_ty), mask=mask)
