"""From maps of several resolutions to a dense prediction: plain mathematics."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .batch_norm import batch_moments, batch_norm
from .scale_aggregation import scale_aggregation


def aggregation_head(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    prediction_weight: Tensor,
    prediction_bias: Tensor | None,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """V · relu(batch_norm(y)) + c with y = W · concat(up(X_0), up(X_1), …) + b (Kim et al. 2022, section 2.4).

    Args:
        maps: (B, C_j, H_j, W_j), the first at the finest resolution.
        weight: W (C, Σ C_j, 1, 1).
        bias: b (C,).
        norm_weight, norm_bias: scale and shift of the batch norm, (C,).
        prediction_weight: V (C_out, C, 1, 1).
        prediction_bias: c (C_out,).
        running_mean, running_var: (C,), what y is normalised by; without them its own mean and variance over all images
            and pixels.
        eps: added to the variance.

    Returns:
        Prediction (B, C_out, H_0, W_0); mean of y and its unbiased variance, (C,), without gradient: the running ones
        where these are given.
    """
    y = scale_aggregation(maps, weight, bias)
    if running_mean is not None and running_var is not None:
        mean, variance = running_mean, running_var
        normalised = batch_norm(y, norm_weight, norm_bias, eps, mean, variance)
    else:
        mean, variance = batch_moments(y.detach())
        normalised = batch_norm(y, norm_weight, norm_bias, eps)
    return F.conv2d(F.relu(normalised), prediction_weight, prediction_bias), mean, variance
