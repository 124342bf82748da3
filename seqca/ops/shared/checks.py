"""Checks of arguments that several operators need."""

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What the operators compute in."""


def check_dense(name: str, x: Tensor) -> None:
    """Refuses a sparse tensor.

    Raises:
        TypeError: with the name of the argument.
    """
    if x.layout is not torch.strided:
        raise TypeError(f"{name}: got a tensor in {x.layout}, expected a dense one")


def check_tensor(name: str, x: object) -> None:
    """Refuses what is no tensor, and a sparse one.

    Raises:
        TypeError: with the name of the argument.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, expected a tensor")
    check_dense(name, x)


def check_floating(name: str, x: Tensor) -> None:
    """Refuses a tensor in a dtype that is not one of `DTYPES`, and a sparse one.

    Raises:
        TypeError: with the name of the argument.
    """
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: got {x.dtype}, expected one of {', '.join(map(str, DTYPES))}")
    check_dense(name, x)
