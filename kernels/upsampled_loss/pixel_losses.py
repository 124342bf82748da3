"""Losses of pixels and their gradients by the logits, as device functions: a tile of logits lives in registers."""

import triton
import triton.language as tl


@triton.jit
def cross_entropy(z, y, live, columns, channels):
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
def sign(x):
    """-1, 0 or 1; NaN of NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


@triton.jit
def unit_l1(z, y, live):
    """Loss and gradient of |z / max(‖z‖, ε) − y|; z and y (pixels, channels), 0 beyond the channels."""
    square = tl.sum(z * z, 1)
    norm = tl.sqrt(square)
    scale = 1.0 / tl.maximum(norm, 1e-12)
    residual = tl.where(live[:, None], z * scale[:, None] - y, 0.0)
    direction = sign(residual)
    # What lies along z is lost, unless the norm is clamped. From z itself, since the rounding of z / ‖z‖ has a mean,
    # which a sum over all pixels shows.
    along = tl.where(norm < 1e-12, 0.0, tl.sum(direction * z, 1) / square)
    return tl.sum(tl.abs(residual), 1), (direction - z * along[:, None]) * scale[:, None]


@triton.jit
def l1(z, y, live):
    """Loss and gradient of |z − y|, elementwise."""
    residual = tl.where(live, z - y, 0.0)
    return tl.abs(residual), sign(residual)


@triton.jit
def balanced_bce(z, y, live, of_positive, of_negative):
    """Loss and gradient of weighted binary cross-entropy, elementwise."""
    positive = y >= 0.5
    weight = tl.where(live, tl.where(positive, of_positive, of_negative), 0.0)
    weight = tl.where(live & (y != y), float("nan"), weight)  # a label that is NaN is neither
    s = tl.where(positive, -z, z)
    # softplus(s) and its derivative σ(s), from e = exp(−|s|) ≤ 1; log(1 + e) with the digits that 1 + e drops.
    e = tl.exp(-tl.abs(s))
    one = 1.0 + e
    loss = tl.maximum(s, 0.0) + tl.log(one) + (e - (one - 1.0)) / one
    slope = tl.where(s > 0, 1.0, e) / one
    return weight * loss, weight * tl.where(positive, -slope, slope)
