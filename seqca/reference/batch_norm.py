"""Batch norm by the statistics of the batch, as several references need it: plain mathematics.

torch's batch norm and var_mean add up float32 in float64, but float64 one by one, and so err by many roundings where
they ought to be exact. Means alone are added up in a tree.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of the channels (C,) of a map (B, C, H, W), at least in float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean((0, 2, 3))
    squares = (wide - mean[:, None, None]).square().sum((0, 2, 3))
    return mean, squares / (x.numel() // x.shape[1] - 1)


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, mean: Tensor | None = None, variance: Tensor | None = None
) -> Tensor:
    """Normalised, scaled and shifted, of the shape and dtype of x (B, C, H, W).

    By the mean and variance given, in the dtype of the weight; without them by those of the batch.
    """
    if x.dtype == torch.float64:
        centred = x - (x.mean((0, 2, 3)) if mean is None else mean.to(x))[:, None, None]
        spread = centred.square().mean((0, 2, 3)) if variance is None else variance.to(x)
        return centred * ((spread + eps).rsqrt() * weight)[:, None, None] + bias[:, None, None]
    # As (B, C, N): of a single image (B, C, H, W), torch on a CPU computes a wrong gradient from one whose channels are
    # the densest dimension and whose first stride is that of a pixel (2.14).
    running_mean, running_var = (None if y is None else y.to(weight.dtype) for y in (mean, variance))
    flat = F.batch_norm(x.flatten(2), running_mean, running_var, weight, bias, training=mean is None, eps=eps)
    return flat.view_as(x)  # to a traced program, x.shape would be constants
