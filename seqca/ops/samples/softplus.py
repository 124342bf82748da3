"""Arguments that show what `softplus` does."""

from torch import Generator, Tensor

from ..shared.sample import Sample, Sampler, map_size, normal


def _map(tokens: int, channels: int, generator: Generator) -> Tensor:
    return normal(3, channels, *map_size(tokens), generator=generator)


def _both_signs(tokens: int, channels: int, generator: Generator) -> Sample:
    """Where softplus is curved."""
    return Sample({"x": 3 * _map(tokens, channels, generator)}, ("x",))


def _small_results(tokens: int, channels: int, generator: Generator) -> Sample:
    """Where 1 + e^x drops digits of e^x."""
    return Sample({"x": -3 - _map(tokens, channels, generator).abs()}, ("x",))


def _large_arguments(tokens: int, channels: int, generator: Generator) -> Sample:
    """Where e^x and e^(−x) overflow, results are x or 0, and slopes 1 or 0."""
    return Sample({"x": 60 * _map(tokens, channels, generator)}, ("x",))


SAMPLES: dict[str, Sampler] = {
    "both signs": _both_signs,
    "small results": _small_results,
    "large arguments": _large_arguments,
}
