"""Softplus, the feature map of queries and keys: plain mathematics."""

import torch.nn.functional as F
from torch import Tensor


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), elementwise (Kim et al. 2022, section 2.2).

    Args:
        x: any shape.

    Returns:
        Of the shape and dtype of x.
    """
    # Beyond 40 it is x to the last bit of float64; torch's own threshold of 20 would show there. Autocast on a GPU
    # makes the result float32.
    return F.softplus(x, threshold=40).to(x.dtype)
