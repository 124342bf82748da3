"""Sums around the upsampled losses: counts of labels before them, their mean and the scaled gradient after them."""

import triton
import triton.language as tl


@triton.jit
def upsampled_loss_forward_counts(
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
def upsampled_loss_forward_mean(losses, counts, loss, divisor, programs, terms, BLOCK: tl.constexpr):
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
def upsampled_loss_backward_scale(grad, gradient, divisor, output, count, BLOCK: tl.constexpr):
    """gradient / divisor · grad, in the dtype of the output; rounded one by one: no rounding is common to all."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < count
    scaled = tl.div_rn(tl.load(gradient + offsets, mask=mask, other=0.0), tl.load(divisor)) * tl.load(grad)
    tl.store(output + offsets, scaled.to(output.dtype.element_ty), mask=mask)
