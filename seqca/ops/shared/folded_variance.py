"""Variances v = diag(W K Wᵀ) of 1×1 convolutions by the covariance of the map they read, and the way back through them.

W K Wᵀ cancels where a channel varies little: in float64, and what rounding has made negative is 0 and constant.
"""

import torch
from torch import Tensor


def folded_variances(weight: Tensor, covariance: Tensor) -> Tensor:
    """v (…, rows), from W (…, rows, C) and K (…, C, C)."""
    return _sums(weight @ covariance, weight).clamp_(min=0)


def through_variances(
    weight: Tensor, covariance: Tensor, scale: Tensor, inverse: Tensor, d_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients 2 dv W K of W and Wᵀ dv W of K, where dv = −½ dc c/σ² is that of the variances.

    Args:
        weight, covariance: W (…, rows, C) and K (…, C, C).
        scale, inverse: c = γ/σ and 1/σ, 1/√(v + ε), (…, rows).
        d_scale: dc, the gradient of c, (…, rows).
    """
    spread = weight @ covariance
    d_variance = -0.5 * d_scale * scale * inverse.square()
    d_variance = d_variance.masked_fill(_sums(spread, weight) <= 0, 0)[..., None]
    return spread.mul_(2 * d_variance), weight.mT @ (d_variance * weight)


def _sums(spread: Tensor, weight: Tensor) -> Tensor:
    return torch.sum(spread * weight, -1)
