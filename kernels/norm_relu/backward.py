"""Kernels of the pass backward of `norm_relu`: sums of a norm's gradient, and the gradient of its input."""

import triton
import triton.language as tl

from .tiles import load_vector, normalised, offsets, place, rows_of, summed


@triton.jit
def norm_relu_backward_sums(
    grad, y, addend, rectified, mean, inverse, weight, bias, sums,
    grad_strides, y_strides, addend_strides, rectified_strides, channels, rows, images, parts, span, pixels, width,
    ADD: tl.constexpr, RECTIFY: tl.constexpr, FLAT: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Σ s and Σ s (y − mean) of a run of pixels, s the gradient where the ReLU passes it.

    They are in `sums` (batches, 2, rows, channels), the rows of a batch of so many images. Where something was added to
    the norm, s is written too.
    """
    batch, row, image, channel, begin, end = place(channels, images, parts, span, pixels, CHANNELS)
    middle, shift = load_vector(mean + batch * channels, channel, channels), load_vector(bias, channel, channels)
    scale = load_vector(weight, channel, channels) * load_vector(inverse + batch * channels, channel, channels)
    total = tl.zeros([CHANNELS, PIXELS], tl.float32)
    products = tl.zeros([CHANNELS, PIXELS], tl.float32)
    for start in tl.range(begin, end, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        mask = (channel < channels)[:, None] & (pixel < end)[None, :]
        source = offsets(y_strides, image, channel, pixel, width, FLAT)
        deviation = tl.load(y + source, mask=mask, other=0.0).to(tl.float32) - middle[:, None]
        source = offsets(grad_strides, image, channel, pixel, width, FLAT)
        s = tl.load(grad + source, mask=mask, other=0.0).to(tl.float32)
        if RECTIFY:
            z = normalised(deviation, scale, shift)
            if ADD:
                source = offsets(addend_strides, image, channel, pixel, width, FLAT)
                z += tl.load(addend + source, mask=mask, other=0.0).to(tl.float32)
            s = tl.where(z <= 0.0, 0.0, s)
            if ADD:
                sink = offsets(rectified_strides, image, channel, pixel, width, FLAT)
                tl.store(rectified + sink, s.to(rectified.dtype.element_ty), mask=mask)
        total += s
        products += s * deviation
    sink = rows_of(sums, batch, rows, channels, 2) + tl.cast(row, tl.int64) * channels + channel
    tl.store(sink, tl.sum(total, 1), mask=channel < channels)
    tl.store(sink + tl.cast(rows, tl.int64) * channels, tl.sum(products, 1), mask=channel < channels)


@triton.jit
def gradients(sums, inverse, batch, rows, channel, channels, ROWS: tl.constexpr):
    """Those of a batch's bias and weight, r and p/σ, from its rows of sums, in fp64."""
    of_batch = rows_of(sums, batch, rows, channels, 2)
    products = summed(of_batch + tl.cast(rows, tl.int64) * channels, rows, channel, channels, ROWS)
    steepness = load_vector(inverse + batch * channels, channel, channels)
    return summed(of_batch, rows, channel, channels, ROWS), products * steepness


@triton.jit
def norm_relu_backward_input(
    grad, y, gradient, mean, inverse, weight, bias, sums, d_weight, d_bias,
    grad_strides, y_strides, gradient_strides, channels, rows, batches, images, parts, span, pixels, width, share,
    RECTIFY: tl.constexpr, TRAINING: tl.constexpr,
    FLAT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """γ/σ (s − r/T − (y − mean) p/(T σ²)), the gradient of y; in evaluation mode γ/σ · s. `share` is 1/T.

    `sums` hold r and p by batches and runs of pixels; programs of the first run of all write the gradients of weight
    and bias, the sums of p/σ and r over the batches.
    """
    batch, row, image, channel, begin, end = place(channels, images, parts, span, pixels, CHANNELS)
    middle, shift = load_vector(mean + batch * channels, channel, channels), load_vector(bias, channel, channels)
    steepness = load_vector(inverse + batch * channels, channel, channels)
    scale = load_vector(weight, channel, channels) * steepness
    total, products = gradients(sums, inverse, batch, rows, channel, channels, ROWS)
    if (batch == 0) & (row == 0):
        all_totals, all_products = total, products
        for other in tl.range(1, batches):
            more_total, more_products = gradients(sums, inverse, other, rows, channel, channels, ROWS)
            all_totals += more_total
            all_products += more_products
        tl.store(d_weight + channel, all_products.to(tl.float32), mask=channel < channels)
        tl.store(d_bias + channel, all_totals.to(tl.float32), mask=channel < channels)
    common = (total.to(tl.float32) * scale * share)[:, None]
    slope = (products.to(tl.float32) * scale * steepness * share)[:, None]
    for start in tl.range(begin, end, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        mask = (channel < channels)[:, None] & (pixel < end)[None, :]
        source = offsets(grad_strides, image, channel, pixel, width, FLAT)
        s = tl.load(grad + source, mask=mask, other=0.0).to(tl.float32)
        if RECTIFY or TRAINING:
            source = offsets(y_strides, image, channel, pixel, width, FLAT)
            deviation = tl.load(y + source, mask=mask, other=0.0).to(tl.float32) - middle[:, None]
        if RECTIFY:
            s = tl.where(normalised(deviation, scale, shift) <= 0.0, 0.0, s)
        d = s * scale[:, None]
        if TRAINING:
            d = d - common - slope * deviation
        sink = offsets(gradient_strides, image, channel, pixel, width, FLAT)
        tl.store(gradient + sink, d.to(gradient.dtype.element_ty), mask=mask)
