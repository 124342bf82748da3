"""Cases of `scale_aggregation`: the backbone's maps, each once, to as many channels as they have together."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from torch import Generator, Tensor

from seqca.configuration import NETWORK
from seqca.ops.shared.operator import OPERATORS, Call

from ..harness.case import DTYPES, Cost
from ..harness.operator_case import Arguments, OperatorCase, normal
from .shapes import CHANNELS, CaseSet, Dataset


class MapSize(NamedTuple):
    """Maps of one size."""

    height: int
    width: int
    channels: int
    """Of each map."""
    repeats: tuple[int, ...]
    """By map: how often it stands in the concatenation."""


def cases(wanted: CaseSet) -> Iterator[OperatorCase]:
    """Every data set."""
    for data, dtype, direction in product(wanted.datasets, wanted.dtypes, wanted.directions):
        yield case(data, dtype, direction, wanted)


def case(data: Dataset, dtype: str, direction: str, wanted: CaseSet) -> OperatorCase:
    """The maps of all scales."""
    levels = [
        MapSize(data.height // stride, data.width // stride, c, (1,))
        for c, stride in zip(CHANNELS, NETWORK.strides, strict=True)
    ]
    channels = sum(CHANNELS)
    size = (data.batch, channels, levels[0].height, levels[0].width)

    def draw(generator: Generator) -> Arguments:
        arguments = {
            "maps": pyramid_maps(levels, data.batch, dtype, generator),
            "weight": normal((channels, channels, 1, 1), dtype, generator) / channels**0.5,
            "bias": normal((channels,), dtype, generator),
        }
        return Arguments(arguments, tuple(arguments), [normal(size, dtype, generator)])

    tokens = data.batch * levels[0].height * levels[0].width
    return OperatorCase(
        operator="scale_aggregation",
        shape=data.name,
        dtype=dtype,
        direction=direction,
        device=wanted.device,
        sizes={"tokens": tokens, "channels": channels, "scales": len(levels)},
        draw=draw,
        least_cost=pyramid_cost(levels, data.batch, channels, DTYPES[dtype].itemsize, direction),
        call=Call(wanted.device, DTYPES[dtype], channels, tokens),
        modes=wanted.modes(),
        published=OPERATORS["scale_aggregation"].reference,  # upsampling, concatenation and convolution
    )


def pyramid_maps(levels: Sequence[MapSize], batch: int, dtype: str, generator: Generator) -> list[Tensor]:
    """Random maps in the order of the concatenation: the first of a level before each of its others, as often as it
    stands."""
    maps = []
    for level in levels:
        size = (batch, level.channels, level.height, level.width)
        first, *others = (normal(size, dtype, generator) for _ in level.repeats)
        pairs = [x for other in others for x in (first, other)]
        maps += pairs or [first]
    return maps


def pyramid_cost(
    levels: Sequence[MapSize], batch: int, channels: int, itemsize: int, direction: str, recomputed: bool = False
) -> Cost:
    """What the sum cannot avoid: each map read, and multiplied at its own resolution, once; backward twice.

    The sum itself is written, and its gradient read, unless it is recomputed. Interpolation is separable, a
    multiplication and an addition for each of the two cells along an axis.
    """
    maps = [(level, len(level.repeats) * level.channels) for level in levels]
    numbers = batch * sum(c * level.height * level.width for level, c in maps)
    products = 2 * channels * numbers
    height, width = levels[0].height, levels[0].width
    upsampled = 4 * batch * channels * sum(height * (level.width + width) for level, _ in maps[1:])
    result = 0 if recomputed else batch * channels * height * width
    again = products + upsampled if recomputed else 0
    forward = Cost((numbers + result) * itemsize, products + upsampled, 0)
    return Cost.of(direction, forward, Cost((2 * numbers + result) * itemsize, 2 * products + upsampled + again, 0))
