"""Inputs that show what an operator does, for its tests, `selftest` and benchmarks' checks.

A sampler makes arguments from a number of tokens, a number of channels and a generator. Floating tensors are
drawn in float64 and contiguous; whoever uses them rounds them to the dtype under test and lays them out.
They are conditioned so that the reference stays finite in every dtype: a yardstick of NaN measures nothing.
"""

from collections.abc import Callable
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize, softplus

from seqca.reference.upsampled_loss import Loss


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


# No sample has a source of one token: o = v whatever q and k are, so their gradients are rounding errors, and too few
# of them to measure a bound by.


def _leading(tokens: int, channels: int) -> int:
    """Leading indices: many where there are few numbers otherwise."""
    return 16 if tokens < 8 and channels < 100 else 2


def _one_map(tokens: int, channels: int, generator: Generator) -> Sample:
    q, k, v = _attention(_leading(tokens, channels), tokens, tokens + 2, channels, channels, generator)
    return Sample({"q": q, "k": k, "v": v}, ("q", "k", "v"))


def _several_maps(tokens: int, channels: int, generator: Generator) -> Sample:
    """Entries of different lengths and leading dimensions, with fewer values than channels."""
    values = channels // 2 + 1
    entries = [
        _attention(_leading(tokens, channels) - 1, tokens + 4, tokens + 3, channels, values, generator),
        _attention(_leading(tokens, channels), tokens, tokens // 2 + 2, channels, values, generator),
    ]
    q, k, v = (list(tensors) for tensors in zip(*entries, strict=True))
    return Sample({"q": q, "k": k, "v": v}, ("q", "k", "v"))


def _clamped(tokens: int, channels: int, generator: Generator) -> Sample:
    """Every second query has a denominator far below eps, the others far above, in every dtype."""
    q, k, v = _attention(_leading(tokens, channels), tokens + 2, tokens + 1, channels, channels, generator)
    q[:, ::2] = _normal(*q[:, ::2].shape, generator=generator) / 64
    return Sample({"q": q, "k": k, "v": v, "eps": tokens * channels / 16}, ("q", "k", "v"))


linear_attention_samples: dict[str, Sampler] = {
    "one map": _one_map,
    "several maps": _several_maps,
    "clamped denominators": _clamped,
}


def _map_size(tokens: int) -> tuple[int, int]:
    """About so many cells, more wide than high."""
    height = isqrt(tokens)
    return height, tokens // height + 2


def _classes(tokens: int, channels: int, generator: Generator) -> Sample:
    """Stride 4, every fifth pixel ignored."""
    h, w = _map_size(tokens)
    prediction = _normal(3, channels, h, w, generator=generator)
    target = torch.randint(channels, (3, 4 * h, 4 * w), generator=generator)
    target.view(-1)[::5] = 255 if channels <= 255 else -1
    loss = Loss("cross_entropy", ignore=255 if channels <= 255 else -1)
    return Sample({"prediction": prediction, "target": target, "loss": loss}, ("prediction",))


def _dense(
    tokens: int, channels: int, size: Callable[[int, int], tuple[int, int]], generator: Generator
) -> tuple[Tensor, Tensor]:
    """A prediction and noise in the place and the dtype of its label, of the size that `size` makes of the cells."""
    h, w = _map_size(tokens)
    noise = _normal(3, channels, *size(h, w), generator=generator).float()
    return _normal(3, channels, h, w, generator=generator), noise


def _values(tokens: int, channels: int, generator: Generator) -> Sample:
    """Ratios that are no integers, every fifth entry ignored."""
    prediction, target = _dense(tokens, channels, lambda h, w: (2 * h + 1, w + w // 2 + 1), generator)
    target.view(-1)[::5] = 255
    loss = Loss("l1", ignore=255)
    return Sample({"prediction": prediction, "target": target, "loss": loss}, ("prediction",))


def _unit_vectors(tokens: int, channels: int, generator: Generator) -> Sample:
    """An odd stride across, none down, every fifth pixel ignored."""
    prediction, noise = _dense(tokens, channels, lambda h, w: (h, 3 * w), generator)
    target = normalize(noise, dim=1)
    target.flatten(2)[:, :, ::5] = 255
    loss = Loss("unit_l1", ignore=255)
    return Sample({"prediction": prediction, "target": target, "loss": loss}, ("prediction",))


def _few_positives(tokens: int, channels: int, generator: Generator) -> Sample:
    """About every sixth pixel positive, which the batch's weight makes up for."""
    prediction, noise = _dense(tokens, channels, lambda h, w: (2 * h, 2 * w), generator)
    target = (noise > 1).float()
    return Sample({"prediction": prediction, "target": target, "loss": Loss("balanced_bce")}, ("prediction",))


def _two_classes(tokens: int, channels: int, generator: Generator) -> Sample:
    """Two channels whatever their number, stride 8, the last row ignored, a fixed weight."""
    prediction, noise = _dense(tokens, 2, lambda h, w: (8 * h, 8 * w), generator)
    target = (noise[:, :1] > 1).float()
    target[:, :, -1] = 255
    # A weight that does not balance: else gradients cancel in the mean of their one channel and its negative, and what
    # is left, rounding errors alone, is chance.
    loss = Loss("two_class", ignore=255, positive_weight=0.125)
    return Sample({"prediction": prediction, "target": target, "loss": loss}, ("prediction",))


upsampled_loss_samples: dict[str, Sampler] = {
    "classes": _classes,
    "values": _values,
    "unit vectors": _unit_vectors,
    "few positives": _few_positives,
    "two classes": _two_classes,
}


def _map(tokens: int, channels: int, generator: Generator) -> Tensor:
    return _normal(3, channels, *_map_size(tokens), generator=generator)


def _both_signs(tokens: int, channels: int, generator: Generator) -> Sample:
    """Where softplus is curved."""
    return Sample({"x": 3 * _map(tokens, channels, generator)}, ("x",))


def _small_results(tokens: int, channels: int, generator: Generator) -> Sample:
    """Where 1 + e^x drops digits of e^x."""
    return Sample({"x": -3 - _map(tokens, channels, generator).abs()}, ("x",))


def _large_arguments(tokens: int, channels: int, generator: Generator) -> Sample:
    """Where e^x and e^(−x) overflow, results are x or 0, and slopes 1 or 0."""
    return Sample({"x": 60 * _map(tokens, channels, generator)}, ("x",))


softplus_samples: dict[str, Sampler] = {
    "both signs": _both_signs,
    "small results": _small_results,
    "large arguments": _large_arguments,
}
