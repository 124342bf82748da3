"""Inputs that show what an operator does, for its tests, `selftest` and benchmarks' checks.

A sampler makes arguments from a number of tokens, a number of channels and a generator. Floating tensors are
drawn in float64 and contiguous; their users round them to the dtype under test and lay them out.
They are conditioned so that the reference stays finite in every dtype: a yardstick of NaN measures nothing.
"""

from collections.abc import Callable
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor


class Sample(NamedTuple):
    """Arguments of one call of a public function."""

    arguments: dict[str, Any]
    """By parameter name: tensors, lists of tensors, or plain values."""
    differentiable: tuple[str, ...]
    """The arguments whose tensors take the dtype under test and have gradients."""
    statistics: tuple[str, ...] = ()
    """Those of the differentiable arguments that stay float32 where the dtype under test is half precision."""


Sampler = Callable[[int, int, Generator], Sample]


def normal(*shape: int, generator: Generator) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def map_size(tokens: int) -> tuple[int, int]:
    """About so many cells, more wide than high."""
    height = isqrt(tokens)
    return height, tokens // height + 2
