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


def _attention(leading: int, tokens: int, sources: int, channels: int, values: int, rng: Generator) -> list[Tensor]:
    """Queries and keys behind a softplus, values of both signs."""
    q = softplus(_normal(leading, tokens, channels, generator=rng))
    k = softplus(_normal(leading, sources, channels, generator=rng))
    return [q, k, _normal(leading, sources, values, generator=rng)]


# One source token alone gives o = v whatever q and k are: their gradients are rounding errors, with few of them to
# measure a bound by. So only the sample with clamped denominators, where it is not so, has one.


def _one_map(tokens: int, channels: int, generator: Generator) -> Sample:
    q, k, v = _attention(4, tokens, tokens + 2, channels, channels, generator)
    return Sample({"q": q, "k": k, "v": v}, ("q", "k", "v"))


def _several_maps(tokens: int, channels: int, generator: Generator) -> Sample:
    """Entries of different lengths and leading dimensions, with fewer values than channels."""
    values = channels // 2 + 1
    entries = [
        _attention(3, tokens + 4, tokens + 3, channels, values, generator),
        _attention(4, tokens, tokens // 2 + 2, channels, values, generator),
    ]
    q, k, v = (list(tensors) for tensors in zip(*entries, strict=True))
    return Sample({"q": q, "k": k, "v": v}, ("q", "k", "v"))


def _clamped(tokens: int, channels: int, generator: Generator) -> Sample:
    """Every second query has a denominator far below eps, the others far above, in every dtype."""
    q, k, v = _attention(2, tokens, tokens, channels, channels, generator)
    q[:, ::2] /= 64
    return Sample({"q": q, "k": k, "v": v, "eps": tokens * channels / 16}, ("q", "k", "v"))


linear_attention_samples: dict[str, Sampler] = {
    "one map": _one_map,
    "several maps": _several_maps,
    "clamped denominators": _clamped,
}
