"""Maps and layers that show what `cross_attention` does.

Half of what a ReLU sees is positive, and nothing near zero, where it has a kink. To that end half of the pixels of each
map are raised, and rows of the layers that read it have one sign each.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from seqca.pairs import Branch, Pair, between_tasks, from_coarser

from ..shared.branches import layers_of
from ..shared.sample import Sample, Sampler, map_size, normal

_EPS = 0.25
"""Not small beside the variances, of about 1, so that it matters."""

_IMAGES = 2


class _Layers:
    """Layers made one after the other, each with the statistics that it needs."""

    def __init__(self, running: bool, generator: Generator) -> None:
        self._running, self._generator = running, generator
        self.weights: list[Tensor] = []
        self.scales: list[Tensor] = []
        self.shifts: list[Tensor] = []
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []

    def add(self, x: Tensor, weight: Tensor, shift: Callable[[Tensor], Tensor], groups: int = 1) -> Tensor:
        """What a layer of new scales makes of x; its shift is a function of the scaled map."""
        y = F.conv2d(x, weight, groups=groups)
        scale = 0.75 + torch.rand(len(weight), generator=self._generator, dtype=torch.float64)
        variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
        if self._running:
            mean = mean + variance.sqrt() * normal(len(weight), generator=self._generator) / 4
            variance = variance * (0.75 + torch.rand(len(weight), generator=self._generator, dtype=torch.float64))
        scaled = (y - mean[:, None, None]) * (scale * (variance + _EPS).rsqrt())[:, None, None]
        self.weights.append(weight)
        self.scales.append(scale)
        self.shifts.append(shift(scaled))
        self.means.append(mean.float())
        self.variances.append(variance.float())
        return scaled + self.shifts[-1][:, None, None]

    def repeat(self, x: Tensor, layer: int, groups: int = 1) -> Tensor:
        """What a layer that is there already makes of x."""
        for tensors in (self.weights, self.scales, self.shifts, self.means, self.variances):
            tensors.append(tensors[layer])
        y = F.conv2d(x, self.weights[layer], groups=groups)
        variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
        scale = self.scales[layer] * (variance + _EPS).rsqrt()
        return (y - mean[:, None, None]) * scale[:, None, None] + self.shifts[layer][:, None, None]


def attention_sample(
    channels: int,
    sizes: Sequence[tuple[int, int, int]],
    branches: Sequence[Branch],
    pairs: Sequence[Pair],
    generator: Generator,
    running: bool = False,
    shared: Sequence[tuple[int, int]] = (),
    images: int = _IMAGES,
) -> Sample:
    """Of maps of (C, H, W); in `shared`, branches whose layers behind the projection are another's."""
    maps = [_two_levels(images, c, h, w, generator) for c, h, w in sizes]
    layers, places, sharing = _Layers(running, generator), layers_of(branches), dict(shared)

    def near_zero(scaled: Tensor) -> Tensor:
        return normal(scaled.shape[1], generator=generator) / 4

    for i, branch in enumerate(branches):
        blocks, x = branch.queries + branch.keys, maps[branch.map]
        if branch.projected:
            x = layers.add(x, _positive(channels, x.shape[1], generator), near_zero)
        if i in sharing:
            place = places[sharing[i]]
            layers.repeat(F.relu(layers.repeat(x, place.hidden)), place.features, blocks)
            if place.values is not None:
                layers.repeat(x, place.values)
            continue
        hidden = F.relu(layers.add(x, _one_sign(blocks * channels, x.shape[1], generator), _widest_gap))
        features = normal(blocks * channels, channels, 1, 1, generator=generator) / channels**0.5
        layers.add(hidden, features, near_zero, blocks)
        if branch.keys:
            layers.add(x, _one_sign(branch.keys * channels, x.shape[1], generator), _widest_gap)
    arguments = {
        "maps": maps,
        "weights": layers.weights,
        "scales": layers.scales,
        "shifts": layers.shifts,
        "branches": list(branches),
        "pairs": list(pairs),
        "norm_eps": _EPS,
    }
    if running:
        arguments |= {"running_means": layers.means, "running_vars": layers.variances}
    return Sample(arguments, ("maps", "weights", "scales", "shifts"), ("scales", "shifts"))


def _two_levels(images: int, channels: int, height: int, width: int, generator: Generator) -> Tensor:
    """A map in which every other pixel is raised, in every channel by about as much as it varies otherwise."""
    raised = torch.arange(height * width, dtype=torch.float64).view(height, width) % 2
    height_of_step = 8 / channels**0.5 + normal(images, 1, height, width, generator=generator).abs() / channels**0.5
    return 1 + normal(images, channels, height, width, generator=generator) / 2 + raised * height_of_step


def _positive(rows: int, columns: int, generator: Generator) -> Tensor:
    return (0.5 + torch.rand(rows, columns, 1, 1, generator=generator, dtype=torch.float64)) / columns**0.5


def _one_sign(rows: int, columns: int, generator: Generator) -> Tensor:
    """A weight whose rows are positive or negative."""
    signs = normal(rows, 1, 1, 1, generator=generator).sign()
    return signs * _positive(rows, columns, generator)


def _widest_gap(scaled: Tensor) -> Tensor:
    """What puts the widest gap between two values of a channel at zero."""
    ordered = scaled.transpose(0, 1).flatten(1).sort(1).values
    widest = ordered.diff(dim=1).argmax(1, keepdim=True)
    return -(ordered.gather(1, widest) + ordered.gather(1, widest + 1))[:, 0] / 2


def exchange_sample(
    tasks: int, size: tuple[int, int], channels: int, generator: Generator, images: int = _IMAGES
) -> Sample:
    """Maps of several tasks that gather from each other."""
    return attention_sample(channels, [(channels, *size)] * tasks, *between_tasks(tasks), generator, images=images)


def _exchange(tokens: int, channels: int, generator: Generator) -> Sample:
    """Of three tasks."""
    return exchange_sample(3, map_size(tokens), channels, generator)


def _coarser(tokens: int) -> tuple[int, int]:
    h, w = map_size(tokens)
    return h // 2 + 1, w // 2 + 3


def _across_scales(tokens: int, channels: int, generator: Generator) -> Sample:
    """A map that gathers from two coarser ones with more channels; its key layers are shared by them."""
    h, w = _coarser(tokens)
    sizes = [(channels, *map_size(tokens)), (channels + 3, h, w), (channels + 6, h, w - 1)]
    return attention_sample(channels, sizes, *from_coarser(1, 2), generator, shared=[(2, 1)])


def _evaluation(tokens: int, channels: int, generator: Generator) -> Sample:
    """Running statistics, with and without a projection."""
    sizes = [(channels, *map_size(tokens)), (channels + 3, *_coarser(tokens))]
    branches = [Branch(0, queries=1, keys=1), Branch(1, queries=1, keys=1, projected=True)]
    return attention_sample(channels, sizes, branches, [Pair(0, 0, 1, 0), Pair(1, 0, 0, 0)], generator, running=True)


def _mixed(tokens: int, channels: int, generator: Generator) -> Sample:
    """A map that several branches read, attention of a map to itself, blocks that serve several pairs."""
    sizes = [(channels + 1, *map_size(tokens)), (channels, *_coarser(tokens))]
    branches = [Branch(0, queries=2, keys=1), Branch(1, queries=1), Branch(0, keys=1, projected=True)]
    pairs = [Pair(0, 1, 0, 0), Pair(1, 0, 2, 0), Pair(0, 0, 2, 0), Pair(0, 1, 2, 0)]
    return attention_sample(channels, sizes, branches, pairs, generator)


SAMPLES: dict[str, Sampler] = {
    "exchange": _exchange,
    "across scales": _across_scales,
    "evaluation": _evaluation,
    "mixed": _mixed,
}
