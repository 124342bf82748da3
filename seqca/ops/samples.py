"""Inputs that show what an operator does, for its tests, `selftest` and benchmarks' checks.

A sampler makes arguments from a number of tokens, a number of channels and a generator. Floating tensors are
drawn in float64 and contiguous; whoever uses them rounds them to the dtype under test and lays them out.
They are conditioned so that the reference stays finite in every dtype: a yardstick of NaN measures nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus


class Sample(NamedTuple):
    """Arguments of one call of a public function."""

    arguments: dict[str, Any]
    """By parameter name: tensors, lists of tensors, or plain values."""
    differentiable: tuple[str, ...]
    """The arguments whose tensors take the dtype under test and have gradients."""


Sampler = Callable[[int, int, Generator], Sample]


def _normal(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _attention(tokens: int, sources: int, channels: int, values: int, generator: Generator) -> list[Tensor]:
    """Queries and keys behind a softplus, values of both signs."""
    q = softplus(_normal(2, tokens, channels, generator=generator))
    k = softplus(_normal(2, sources, channels, generator=generator))
    return [q, k, _normal(2, sources, values, generator=generator)]


def _one_map(tokens: int, channels: int, generator: Generator) -> Sample:
    q, k, v = _attention(tokens, tokens, channels, channels, generator)
    return Sample({"q": q, "k": k, "v": v}, ("q", "k", "v"))


def _several_maps(tokens: int, channels: int, generator: Generator) -> Sample:
    """Entries of different lengths, one without leading dimensions, with fewer values than channels."""
    q, k, v = _attention(tokens, tokens, channels, channels // 2 + 1, generator)
    q_2, k_2, v_2 = _attention(tokens + 2, tokens // 2 + 1, channels, channels // 2 + 1, generator)
    return Sample({"q": [q[0], q_2], "k": [k[0], k_2], "v": [v[0], v_2]}, ("q", "k", "v"))


def _clamped(tokens: int, channels: int, generator: Generator) -> Sample:
    """Every second query has a denominator far below eps, the others far above, in every dtype."""
    q, k, v = _attention(tokens, tokens, channels, channels, generator)
    q[:, ::2] /= 64
    return Sample({"q": q, "k": k, "v": v, "eps": tokens * channels / 16}, ("q", "k", "v"))


linear_attention_samples: dict[str, Sampler] = {
    "one map": _one_map,
    "several maps": _several_maps,
    "clamped denominators": _clamped,
}
