"""Maps, weights and batch norms that show what `aggregation_head` does."""

import torch
from torch import Generator, Tensor

from seqca.reference.scale_aggregation import scale_aggregation

from ..shared.sample import Sample, Sampler, map_size, normal
from .scale_aggregation import Size, halves, maps_and_weight

_DIFFERENTIABLE = ("maps", "weight", "bias", "norm_weight", "norm_bias", "prediction_weight", "prediction_bias")
_STATISTICS = ("norm_weight", "norm_bias")


_EPS = 0.25
"""Not small beside the variances, of about 1, so that it matters."""


def _sample(channels: int, maps: list[Tensor], running: bool, biases: bool, generator: Generator) -> Sample:
    """A head on maps; half of what it normalises is positive, and nothing near zero, where the ReLU has a kink."""
    weight = _apart(maps, channels, generator)
    bias = normal(channels, generator=generator) if biases else None
    norm_weight = 0.75 + torch.rand(channels, generator=generator, dtype=torch.float64)
    y = scale_aggregation(maps, weight, bias).transpose(0, 1).flatten(1)
    variance, mean = torch.var_mean(y, 1, correction=0)
    if running:
        mean = mean + normal(channels, generator=generator) / 4
        variance = variance * (0.75 + torch.rand(channels, generator=generator, dtype=torch.float64))
    outputs = channels // 8 + 1
    scaled = (y - mean[:, None]) * (norm_weight / (variance + _EPS).sqrt())[:, None]
    arguments = {
        "maps": maps,
        "weight": weight,
        "bias": bias,
        "norm_weight": norm_weight,
        "norm_bias": -_widest_gap(scaled),
        # Of a mean that is not 0: if all channels are one, nothing cancels by chance.
        "prediction_weight": (1 + normal(outputs, channels, 1, 1, generator=generator)) / channels**0.5,
        "prediction_bias": normal(outputs, generator=generator) if biases else None,
        "eps": _EPS,
    }
    if running:
        arguments |= {"running_mean": mean.float(), "running_var": variance.float()}
    differentiable = tuple(name for name in _DIFFERENTIABLE if arguments[name] is not None)
    return Sample(arguments, differentiable, _STATISTICS)


def _apart(maps: list[Tensor], channels: int, generator: Generator) -> Tensor:
    """A weight with which every pixel of y is far above or far below the mean of its channel.

    Half of the pixels of the first map are raised, which therefore is changed. Its columns of the weight have one sign
    in each row, and it is raised until that outweighs all else.
    """
    inputs = sum(x.shape[1] for x in maps)
    weight = normal(channels, inputs, 1, 1, generator=generator) / inputs**0.5
    of_first = torch.cat([torch.full((x.shape[1],), x is maps[0]) for x in maps])
    columns = weight[:, :1].sign() * (weight[:, of_first].abs() + 0.5 / inputs**0.5)
    weight[:, of_first] = columns
    y = scale_aggregation(maps, weight)
    spread = y.amax((0, 2, 3)) - y.amin((0, 2, 3))
    raised = torch.randperm(maps[0][:, 0].numel(), generator=generator).view_as(maps[0][:, :1]) % 2
    maps[0] += 1.5 * (spread / columns.sum((1, 2, 3)).abs()).max() * raised
    return weight / scale_aggregation(maps, weight).transpose(0, 1).flatten(1).std(1).view(-1, 1, 1, 1)


def _widest_gap(values: Tensor) -> Tensor:
    """The middle of the widest gap between two values of a row."""
    ordered = values.sort(1).values
    widest = ordered.diff(dim=1).argmax(1, keepdim=True)
    return (ordered.gather(1, widest) + ordered.gather(1, widest + 1))[:, 0] / 2


def _maps(channels: int, sizes: list[Size], generator: Generator) -> list[Tensor]:
    return maps_and_weight(channels, sizes, generator)[0]


def _training(tokens: int, channels: int, generator: Generator) -> Sample:
    """Statistics of the batch."""
    return _sample(channels, _maps(channels, halves(tokens), generator), False, True, generator)


def _evaluation(tokens: int, channels: int, generator: Generator) -> Sample:
    """Running statistics."""
    return _sample(channels, _maps(channels, halves(tokens), generator), True, True, generator)


def _repeated(tokens: int, channels: int, generator: Generator) -> Sample:
    """As in the network: maps of a scale stand once for each coarser scale."""
    sizes = halves(tokens)
    fine, middle, coarse, attended, *_ = _maps(channels, [*sizes, sizes[0], sizes[1]], generator)
    return _sample(channels, [fine, attended, fine, middle, coarse, middle], False, True, generator)


def _odd_ratios(tokens: int, channels: int, generator: Generator) -> Sample:
    """Ratios that are no integers and differ by axis, no biases."""
    h, w = map_size(tokens)
    maps = _maps(channels, [(h, w), (h, 2 * w // 3), (3 * h // 4 or 1, w)], generator)
    return _sample(channels, maps, False, False, generator)


SAMPLES: dict[str, Sampler] = {
    "batch statistics": _training,
    "running statistics": _evaluation,
    "repeated maps": _repeated,
    "odd ratios": _odd_ratios,
}
