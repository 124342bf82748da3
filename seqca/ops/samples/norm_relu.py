"""Maps, convolutions and batch norms that show what `norm_relu` does."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..shared.sample import Sample, Sampler, map_size, normal

_EPS = 0.25
"""Not small beside the variances, of about 1, so that it matters."""


def _sample(
    maps: list[Tensor],
    shapes: Sequence[tuple[int, int]],
    generator: Generator,
    strides: Sequence[int] | None = None,
    residual: bool = False,
    projection: bool = False,
    running: bool = False,
) -> Sample:
    """Layers of (channels, kernel side) on maps; nothing that a ReLU reads is near zero, where it has a kink."""
    strides = strides or [1] * len(shapes)
    joined = hidden = torch.cat(maps, 1)
    last = max(len(shapes), 1) - 1 - projection
    order = [last + 1, *range(last + 1)] if projection else range(last + 1)
    found: dict[int, tuple[Tensor, ...]] = {}
    addend: Tensor | None = None
    for layer in order:
        x = joined if layer == last + 1 else hidden
        weight = x.new_empty(0)
        if shapes:
            weight = _weight(*shapes[layer], x.shape[1], generator)
            x = F.conv2d(x, weight, stride=strides[layer], padding=shapes[layer][1] // 2)
            spread = x.std((0, 2, 3))[:, None, None]
            weight, x = weight / spread[..., None], x / spread
        scale = 0.75 + torch.rand(x.shape[1], generator=generator, dtype=torch.float64)
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        if running:
            mean = mean + normal(len(mean), generator=generator) / 4 * variance.sqrt()
            variance = variance * (0.75 + torch.rand(len(mean), generator=generator, dtype=torch.float64))
        x = (x - mean[:, None, None]) * (scale / (variance + _EPS).sqrt())[:, None, None]
        if layer == last + 1:
            shift = normal(len(scale), generator=generator)
            addend = x + shift[:, None, None]
        else:
            if layer == last and residual:
                addend = normal(*x.shape, generator=generator) / 8
            x = x if layer < last or addend is None else x + addend
            shift = -_widest_gap(x.transpose(0, 1).flatten(1))
            hidden = (x + shift[:, None, None]).relu()
        found[layer] = (weight, scale, shift, mean, variance)
    weights, scales, shifts, means, variances = map(list, zip(*(found[i] for i in sorted(found)), strict=True))
    arguments: dict[str, Any] = {
        "maps": maps,
        "weights": weights if shapes else [],
        "norm_weights": scales,
        "norm_biases": shifts,
        "residual": addend if residual else None,
        "strides": list(strides),
        "projection": projection,
        "eps": _EPS,
    }
    if running:
        arguments |= {"running_means": [x.float() for x in means], "running_vars": [x.float() for x in variances]}
    differentiable = ("maps", "weights", "norm_weights", "norm_biases", *(("residual",) if residual else ()))
    return Sample(arguments, differentiable, ("norm_weights", "norm_biases"))


def _weight(rows: int, side: int, channels: int, generator: Generator) -> Tensor:
    """Of one sign, so that what is raised in the input is raised in the output."""
    number = channels * side * side
    return (normal(rows, channels, side, side, generator=generator).abs() + 0.25) / number**0.5


def _widest_gap(values: Tensor) -> Tensor:
    """The middle of the widest gap between two values of a row."""
    ordered = values.sort(1).values
    widest = ordered.diff(dim=1).argmax(1, keepdim=True)
    return (ordered.gather(1, widest) + ordered.gather(1, widest + 1))[:, 0] / 2


def _maps(tokens: int, channels: Sequence[int], taps: int, generator: Generator) -> list[Tensor]:
    """Of three images, on the left half higher than on the right by more than sums of so many taps differ by chance."""
    height, width = map_size(tokens)
    raised = torch.arange(width) < (width + 1) // 2
    lift = 16 / (taps * sum(channels)) ** 0.5
    return [normal(3, c, height, width, generator=generator) + lift * raised for c in channels]


def _basic_block(tokens: int, channels: int, generator: Generator) -> Sample:
    """Two convolutions and a residual, statistics of the batch."""
    c = channels // 4 + 1
    return _sample(_maps(tokens, [c], 9, generator), [(c, 3), (c, 3)], generator, residual=True)


def _projection(tokens: int, channels: int, generator: Generator) -> Sample:
    """Two maps, and their projection as residual; the first convolution's output is not kept where channels are few."""
    c = channels // 4 + 1
    maps = _maps(tokens, [c, c + 1], 9, generator)
    return _sample(maps, [(c + 2, 3), (c, 3), (c, 1)], generator, projection=True)


def _bottleneck(tokens: int, channels: int, generator: Generator) -> Sample:
    """Convolutions of three sizes and two strides, running statistics."""
    c = channels // 4 + 1
    shapes = [(c, 1), (c, 3), (2 * c, 1), (2 * c, 1)]
    maps = _maps(tokens, [c], 1, generator)
    return _sample(maps, shapes, generator, strides=[1, 2, 1, 2], projection=True, running=True)


def _chain(tokens: int, channels: int, generator: Generator) -> Sample:
    """Two convolutions without a residual."""
    c = channels // 4 + 1
    return _sample(_maps(tokens, [c], 9, generator), [(c, 3), (c + 1, 3)], generator)


def _norm_alone(tokens: int, channels: int, generator: Generator) -> Sample:
    """No convolution."""
    (x,) = _maps(tokens, [channels], 1, generator)
    return _sample([x / x.std()], [], generator, residual=True)


SAMPLES: dict[str, Sampler] = {
    "basic block": _basic_block,
    "projection": _projection,
    "bottleneck": _bottleneck,
    "chain": _chain,
    "norm alone": _norm_alone,
}
