"""The way back through a ReLU."""

import torch
from torch import Tensor


def through_relu(gradient: Tensor, result: Tensor, out: Tensor) -> Tensor:
    """The gradient of a ReLU's result where that is not 0, else 0, in one pass; `out` may be the gradient itself."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, result, 0, grad_input=out)
