"""Losses of pixels and their gradients by the logits, as device functions."""

import triton
import triton.language as tl


@triton.jit
def sign(x):
    """-1, 0 or 1; NaN of NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


@triton.jit
def unit_l1(z, y, live):
    """Gradient of |z / max(‖z‖, ε) − y|; z and y (channels, pixels), 0 beyond the channels."""
    square = tl.sum(z * z, 0)
    norm = tl.sqrt(square)
    scale = 1.0 / tl.maximum(norm, 1e-12)
    direction = sign(tl.where(live[None, :], z * scale[None, :] - y, 0.0))
    # What lies along z is lost, unless the norm is clamped. From z itself, since the rounding of z / ‖z‖ has a mean,
    # which a sum over all pixels shows.
    along = tl.where(norm < 1e-12, 0.0, tl.sum(direction * z, 0) / square)
    return (direction - z * along[None, :]) * scale[None, :]


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


@triton.jit
def weights_of_signs(of_positive, of_negative, tallies, TALLIES: tl.constexpr):
    """Weights of positive and of negative pixels: those given, or the counts of the other sign; their sum divides."""
    if TALLIES > 0:
        tally = tallies + tl.arange(0, TALLIES)
        negatives = tl.sum(tl.load(tally).to(tl.int64))
        of_positive = negatives.to(tl.float32)
        of_negative = (tl.sum(tl.load(tally + TALLIES).to(tl.int64)) - negatives).to(tl.float32)
    return of_positive, of_negative
