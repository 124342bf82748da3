"""Softplus in torch operators, its gradient from the result."""

import torch
from torch import Tensor


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) of float32 or float64, laid out as x.

    torch's log1p and expm1 on a CPU, and what is made of them, go element by element; exp, log and tanh do not. With
    u = 1 + e^x rounded, log(1 + e^x) = log(u) + (e^x − (u − 1))/u up to half of the last place.
    """
    rest = x.clamp(max=80).exp_()
    rounded = rest + 1
    rest.sub_(rounded - 1).div_(rounded)
    result = rounded.log_().add_(rest)
    return torch.maximum(result, x, out=result)


def forward(x: Tensor) -> Tensor:
    """log(1 + e^x), laid out as x."""
    return softplus(x.to(_wide(x))).to(x.dtype)


def backward(grad: Tensor, y: Tensor) -> Tensor:
    """grad · (1 − e^(−y)), laid out as y."""
    half = torch.mul(y.to(_wide(y)), 0.5).tanh_()  # 1 − e^(−y) = 2 t/(1 + t) with t = tanh(y/2)
    return half.div_(half + 1).mul_(2).mul_(grad).to(y.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
