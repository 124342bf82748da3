"""A 1×1 convolution over maps of several resolutions: plain mathematics."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def scale_aggregation(maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = W · concat(up(X_0), up(X_1), …) + b, everything upsampled bilinearly to the size of the first map.

    Args:
        maps: (B, C_j, H_j, W_j), the first at the finest resolution.
        weight: (C_out, Σ C_j, 1, 1).
        bias: (C_out,).

    Returns:
        (B, C_out, H_0, W_0).
    """
    size = maps[0].shape[-2:]
    upsampled = [
        x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps
    ]
    return F.conv2d(torch.cat(upsampled, 1), weight, bias)
