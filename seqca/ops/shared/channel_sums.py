"""Sums over the pixels of channels-last maps on a CPU, as exact as torch's over contiguous ones.

Torch's batch norm adds up the pixels of a channels-last map one after the other in float32. Here a map (B, C, H, W) is
seen as one of n·C channels, each with every n-th pixel of a channel, whose few pixels torch adds up; what it finds is
merged in float64.
"""

import math

import torch
from torch import Tensor

_SHARES = 64
"""How many channels at most stand for one."""
_FEWEST = 16


def applies(x: Tensor) -> bool:
    """Whether a map is one whose pixels can be dealt out."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and _shares(x) >= _FEWEST


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance, divided by the number of pixels, by channel in float64."""
    means, variances = torch.ops.aten.batch_norm_update_stats(_dealt(x), None, None, 0.0)
    means, variances = (found.view(-1, x.shape[1]).double() for found in (means, variances))
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def gradient_sums(s: Tensor, x: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Σ s and Σ s (x − mean) · inverse, by channel in float64."""
    shares = _dealt(x)
    repeated = (y.repeat(shares.shape[1] // x.shape[1]) for y in (mean, inverse))
    # Neither the weight nor ε is read for the sums.
    _, products, totals = torch.ops.aten.native_batch_norm_backward(
        _dealt(s), shares, None, None, None, *repeated, True, 0.0, [False, True, True]
    )
    total, product = (found.view(-1, x.shape[1]).sum(0, dtype=torch.float64) for found in (totals, products))
    return total, product


def _dealt(x: Tensor) -> Tensor:
    """A channels-last map (B, C, H, W) as (1, n·C, B·H·W / n, 1)."""
    return x.permute(0, 2, 3, 1).reshape(1, -1, 1, _shares(x) * x.shape[1]).permute(0, 3, 1, 2)


def _shares(x: Tensor) -> int:
    return math.gcd(x.shape[0] * x.shape[2] * x.shape[3], _SHARES)
