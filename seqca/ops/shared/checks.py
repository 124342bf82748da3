"""Checks of arguments that several operators need."""

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What the operators compute in."""

_FLOAT32 = torch.finfo(torch.float32)


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


def check_list(name: str, tensors: object, expected: str = "a list of tensors") -> None:
    """Refuses what is no list of dense tensors.

    Raises:
        TypeError: with the name of the argument, and the place of what is no tensor.
    """
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"{name}: got {type(tensors).__name__}, expected {expected}")
    for i, x in enumerate(tensors):
        if not isinstance(x, Tensor) or x.layout is not torch.strided:  # names cost time in every call
            check_tensor(f"{name}[{i}]", x)


def check_floating(name: str, x: Tensor) -> None:
    """Refuses a tensor in a dtype that is not one of `DTYPES`, and a sparse one.

    Raises:
        TypeError: with the name of the argument.
    """
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: got {x.dtype}, expected one of {', '.join(map(str, DTYPES))}")
    check_dense(name, x)


def check_alike(maps: Sequence[Tensor]) -> None:
    """Refuses maps that are not (B, C, H, W), of one dtype, device and number of images.

    Raises:
        TypeError: another dtype than that of the first map, or one that operators do not compute in.
        ValueError: a shape or device that does not fit.
    """
    first = maps[0]
    check_floating("maps[0]", first)
    for i, x in enumerate(maps):
        name = f"maps[{i}]"
        check_kind(name, x, first)
        if x.ndim != 4 or 0 in x.shape:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected (B, C, H, W), not empty")
        if x.shape[0] != first.shape[0]:
            raise ValueError(f"{name}: got {x.shape[0]} images, expected {first.shape[0]} as in maps[0]")


def check_vector(name: str, x: Tensor, length: int) -> None:
    """Refuses what is no tensor of shape (length,).

    Raises:
        TypeError, ValueError: names it.
    """
    check_tensor(name, x)
    if tuple(x.shape) != (length,):
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected ({length},)")


def check_kind(name: str, x: Tensor, first: Tensor, *others: torch.dtype) -> None:
    """Refuses another dtype than that of the first map or the others allowed, and another device.

    Raises:
        TypeError, ValueError: names it.
    """
    if x.dtype != first.dtype and x.dtype not in others:
        expected = " or ".join(dict.fromkeys(map(str, (first.dtype, *others))))
        raise TypeError(f"{name}: got {x.dtype}, expected {expected} as in maps[0]")
    if x.device != first.device:
        raise ValueError(f"{name}: got a tensor on {x.device}, expected {first.device} as in maps[0]")


def check_constant(name: str, x: Tensor) -> None:
    """Refuses a tensor that a gradient is wanted of, where an operator has none.

    Raises:
        ValueError: names it.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name}: got a tensor that requires a gradient, expected one without: it has none here")


def check_positive(**numbers: float) -> None:
    """Refuses what is no number above 0, and one that float32, in which kernels take it, has not with all its digits.

    Raises:
        TypeError, ValueError: names it.
    """
    for name, number in numbers.items():
        if not isinstance(number, (int, float)):
            raise TypeError(f"{name}: got {type(number).__name__}, expected a number")
        if not number > 0:
            raise ValueError(f"{name}: got {number}, expected a positive number")
        if not _FLOAT32.tiny <= number <= _FLOAT32.max:
            expected = f"a number from {_FLOAT32.tiny:.2g} to {_FLOAT32.max:.2g}"
            raise ValueError(f"{name}: got {number}, expected {expected}")
