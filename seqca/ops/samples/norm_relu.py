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
    batches: int = 1,
    running: bool = False,
) -> Sample:
    """Layers of (channels, kernel side) on maps; nothing that a ReLU reads is near zero, where it has a kink.

    With running statistics there is one batch.
    """
    strides = strides or [1] * len(shapes)
    count = len(maps) // batches
    joined = hidden = torch.cat([torch.cat(maps[i : i + count], 1) for i in range(0, len(maps), count)])
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
        by_batch = x.unflatten(0, (batches, -1))
        variance, mean = torch.var_mean(by_batch, (1, 3, 4), correction=0)
        if running:
            mean = mean + normal(*mean.shape, generator=generator) / 4 * variance.sqrt()
            variance = variance * (0.75 + torch.rand(mean.shape, generator=generator, dtype=torch.float64))
        steepness = scale / (variance + _EPS).sqrt()
        x = ((by_batch - mean[:, None, :, None, None]) * steepness[:, None, :, None, None]).flatten(0, 1)
        if layer == last + 1:
            shift = normal(len(scale), generator=generator)
            addend = x + shift[:, None, None]
        else:
            if layer == last and residual:
                addend = normal(*x.shape, generator=generator) / 8
            x = x if layer < last or addend is None else x + addend
            shift = -_widest_gap(x.unflatten(0, (batches, -1)).movedim(2, 0).flatten(2))
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
        "batches": batches,
        "eps": _EPS,
    }
    if running:
        arguments |= {"running_means": [x[0].float() for x in means], "running_vars": [x[0].float() for x in variances]}
    differentiable = ("maps", "weights", "norm_weights", "norm_biases", *(("residual",) if residual else ()))
    return Sample(arguments, differentiable, ("norm_weights", "norm_biases"))


def _weight(rows: int, side: int, channels: int, generator: Generator) -> Tensor:
    """Of one sign, so that what is raised in the input is raised in the output."""
    number = channels * side * side
    return (normal(rows, channels, side, side, generator=generator).abs() + 0.25) / number**0.5


def _widest_gap(values: Tensor) -> Tensor:
    """Of (channels, batches, values), the middle of the widest gap that has values of each batch on both sides."""
    ordered = values.flatten(1).sort(1).values
    lowest, highest = values.amin(2).amax(1, keepdim=True), values.amax(2).amin(1, keepdim=True)
    between = (ordered[:, :-1] >= lowest) & (ordered[:, 1:] <= highest)
    widest = ordered.diff(dim=1).where(between, -1).argmax(1, keepdim=True)
    return (ordered.gather(1, widest) + ordered.gather(1, widest + 1))[:, 0] / 2


def _maps(tokens: int, channels: Sequence[int], taps: int, generator: Generator, batch: int = 0) -> list[Tensor]:
    """Of three images, on the left half higher than on the right by more than sums of so many taps differ by chance.

    The means and variances of several batches differ, by less than the two halves do.
    """
    height, width = map_size(tokens)
    raised = torch.arange(width) < (width + 1) // 2
    lift = 16 / (taps * sum(channels)) ** 0.5
    size = height, width
    return [
        (1 + batch / 8) * (normal(3, c, *size, generator=generator) + lift * raised) + batch * lift / 8
        for c in channels
    ]


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


def _batches(tokens: int, channels: int, generator: Generator) -> Sample:
    """Two maps in each of three batches of different means and variances, and their projection as residual."""
    c = channels // 4 + 1
    maps = [x for i in range(3) for x in _maps(tokens, [c, c + 1], 9, generator, i)]
    return _sample(maps, [(c + 2, 3), (c, 3), (c, 1)], generator, projection=True, batches=3)


def _batches_with_residual(tokens: int, channels: int, generator: Generator) -> Sample:
    """One map in each of two batches, two convolutions of which the second leaves pixels out, and a residual."""
    c = channels // 4 + 1
    maps = [x for i in range(2) for x in _maps(tokens, [c], 9, generator, i)]
    return _sample(maps, [(c + 1, 3), (c, 3)], generator, strides=[1, 2], residual=True, batches=2)


def _norm_alone(tokens: int, channels: int, generator: Generator) -> Sample:
    """No convolution."""
    (x,) = _maps(tokens, [channels], 1, generator)
    return _sample([x / x.std()], [], generator, residual=True)


SAMPLES: dict[str, Sampler] = {
    "basic block": _basic_block,
    "projection": _projection,
    "bottleneck": _bottleneck,
    "chain": _chain,
    "batches": _batches,
    "batches with residual": _batches_with_residual,
    "norm alone": _norm_alone,
}
