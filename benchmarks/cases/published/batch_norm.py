"""Batch norm of the published network, with the statistics that the package's operators return."""

import torch
from torch import Tensor


def batch_norm(y: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, C, H, W) normalised by its own statistics, their mean and unbiased variance (C,).

    The statistics are those that torch's batch norm has found. The package's own references take mean and variance in
    passes of their own beside it.
    """
    # As (B, C, N), see seqca.reference.batch_norm.
    normalised, mean, inverse = torch.native_batch_norm(y.flatten(2), weight, bias, None, None, True, 0.1, 1e-5)
    count = y.numel() // y.shape[1]
    return normalised.view(y.shape), mean.detach(), (inverse.detach() ** -2 - 1e-5) * count / (count - 1)
