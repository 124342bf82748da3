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


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalised by mean and variance of the batch, scaled and shifted; of the shape and dtype of x."""
    if x.dtype != torch.float64:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    centred = x - x.mean((0, 2, 3), keepdim=True)
    variance = centred.square().mean((0, 2, 3), keepdim=True)
    return centred * (variance + eps).rsqrt() * weight[:, None, None] + bias[:, None, None]
