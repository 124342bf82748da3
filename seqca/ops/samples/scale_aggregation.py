"""Maps of several resolutions and weights that show what `scale_aggregation` does."""

from collections.abc import Sequence

from torch import Generator, Tensor

from ..shared.sample import Sample, Sampler, map_size, normal

Size = tuple[int, int]


def maps_and_weight(channels: int, sizes: Sequence[Size], generator: Generator) -> tuple[list[Tensor], Tensor, Tensor]:
    """Maps of three images, of a few channels more each, that are not centred; weight and bias."""
    maps = [1 + normal(3, channels // 4 + 1 + i, *size, generator=generator) for i, size in enumerate(sizes)]
    inputs = sum(x.shape[1] for x in maps)
    weight = normal(channels, inputs, 1, 1, generator=generator) / inputs**0.5
    return maps, weight, normal(channels, generator=generator)


def halves(tokens: int) -> list[Size]:
    """Sizes that become half as high and wide, three times."""
    h, w = map_size(tokens)
    return [(-(-h // n), -(-w // n)) for n in (1, 2, 4)]


def _halves(tokens: int, channels: int, generator: Generator) -> Sample:
    """A pyramid."""
    maps, weight, bias = maps_and_weight(channels, halves(tokens), generator)
    return Sample({"maps": maps, "weight": weight, "bias": bias}, ("maps", "weight", "bias"))


def _repeated(tokens: int, channels: int, generator: Generator) -> Sample:
    """The first map and another one stand twice."""
    fine, middle, _ = halves(tokens)
    maps, weight, bias = maps_and_weight(channels, (fine, fine, fine, middle, middle), generator)
    maps[2] = maps[0]
    maps[4] = maps[3]
    weight = normal(channels, sum(x.shape[1] for x in maps), 1, 1, generator=generator) / weight.shape[1] ** 0.5
    return Sample({"maps": maps, "weight": weight, "bias": bias}, ("maps", "weight", "bias"))


def _odd_ratios(tokens: int, channels: int, generator: Generator) -> Sample:
    """Ratios that are no integers and differ by axis, a single cell, no bias."""
    h, w = map_size(tokens)
    sizes = ((h, w), (h, 2 * w // 3), (3 * h // 4 or 1, w), (1, 1))
    maps, weight, _ = maps_and_weight(channels, sizes, generator)
    return Sample({"maps": maps, "weight": weight}, ("maps", "weight"))


def _finest_alone(tokens: int, channels: int, generator: Generator) -> Sample:
    """Nothing to upsample."""
    size = map_size(tokens)
    maps, weight, bias = maps_and_weight(channels, (size, size), generator)
    return Sample({"maps": maps, "weight": weight, "bias": bias}, ("maps", "weight", "bias"))


SAMPLES: dict[str, Sampler] = {
    "halves": _halves,
    "repeated maps": _repeated,
    "odd ratios": _odd_ratios,
    "finest alone": _finest_alone,
}
