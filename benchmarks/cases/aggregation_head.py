"""Cases of `aggregation_head`: each task's head on each data set, and sweeps over scales and channels.

The baseline computes what the published head does: it makes every map as large as the finest one and concatenates them.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from seqca.configuration import NETWORK
from seqca.ops.shared.operator import Call

from ..harness.case import DTYPES, Cost
from ..harness.operator_case import Arguments, OperatorCase, normal
from .published.batch_norm import batch_norm
from .scale_aggregation import MapSize, pyramid_cost, pyramid_maps
from .shapes import CHANNELS, CaseSet, Dataset

SWEPT_CHANNELS = 1080
"""Of all scales together, as in the network, where their number is swept: 1 to 4 divide it."""


def cases(wanted: CaseSet) -> Iterator[OperatorCase]:
    """Heads of the network; then of maps that stand once each: as many channels on 1 to 4 scales, and more channels."""
    for data in wanted.datasets:
        outputs = sorted(set(data.tasks.values()))
        for n, dtype, direction in product(outputs, wanted.dtypes, wanted.directions):
            yield case(f"{data.name}-outputs{n}", network_levels(data), data.batch, n, dtype, direction, wanted)
    data = wanted.datasets[0]
    for scales in range(1, len(CHANNELS) + 1):
        of_scale = SWEPT_CHANNELS // scales
        levels = [level._replace(channels=of_scale, repeats=(1,)) for level in network_levels(data)[:scales]]
        yield case(f"scales/{scales}", levels, data.batch, 1, wanted.sweep_dtype, "both", wanted, sweep=True)
    for channels in wanted.channel_sweep:
        levels = [MapSize(height, width, channels, (1,)) for height, width, _, _ in network_levels(data)]
        yield case(f"channels/{channels}", levels, data.batch, 1, wanted.sweep_dtype, "both", wanted, sweep=True)


def network_levels(data: Dataset) -> list[MapSize]:
    """Of a task: F̂^k stands once for every coarser scale, beside what it gathered there."""
    last = len(CHANNELS) - 1
    return [
        MapSize(data.height // stride, data.width // stride, c, (max(last - k, 1), *[1] * (last - k)))
        for k, (c, stride) in enumerate(zip(CHANNELS, NETWORK.strides, strict=True))
    ]


def case(
    shape: str,
    levels: Sequence[MapSize],
    batch: int,
    outputs: int,
    dtype: str,
    direction: str,
    wanted: CaseSet,
    sweep: bool = False,
) -> OperatorCase:
    """A head with as many channels inside as its concatenation has."""
    channels = sum(sum(level.repeats) * level.channels for level in levels)
    tokens = batch * levels[0].height * levels[0].width

    def draw(generator: Generator) -> Arguments:
        maps = pyramid_maps(levels, batch, dtype, generator)
        # Positive or negative by far in every channel: near zero a ReLU's gradient is chance.
        shift = torch.tensor([8.0, -8.0], device=generator.device).repeat(channels)[:channels]
        arguments = {
            "maps": maps,
            "weight": normal((channels, channels, 1, 1), dtype, generator) / channels**0.5,
            "bias": normal((channels,), dtype, generator),
            "norm_weight": torch.ones(channels, dtype=DTYPES[dtype], device=generator.device),
            "norm_bias": shift.to(DTYPES[dtype]),
            "prediction_weight": normal((outputs, channels, 1, 1), dtype, generator) / channels**0.5,
            "prediction_bias": normal((outputs,), dtype, generator),
        }
        size = (batch, outputs, levels[0].height, levels[0].width)
        return Arguments(arguments, tuple(arguments), [normal(size, dtype, generator)])

    return OperatorCase(
        operator="aggregation_head",
        shape=shape,
        dtype=dtype,
        direction=direction,
        device=wanted.device,
        sizes={"tokens": tokens, "channels": channels, "scales": len(levels), "outputs": outputs},
        draw=draw,
        least_cost=cost(levels, batch, channels, outputs, DTYPES[dtype].itemsize, direction),
        call=Call(wanted.device, DTYPES[dtype], channels, tokens),
        modes=wanted.modes(sweep),
        published=published_sequence,
    )


def cost(levels: Sequence[MapSize], batch: int, channels: int, outputs: int, itemsize: int, direction: str) -> Cost:
    """The sum's, whose result stays where it is, and the last product: once forward, three times backward (y again)."""
    own = pyramid_cost(levels, batch, channels, itemsize, direction, recomputed=True)
    tokens = batch * levels[0].height * levels[0].width
    passes = {"forward": 1, "backward": 2, "both": 3}[direction]
    predicted = passes * tokens * outputs
    return Cost(own.bytes + predicted * itemsize, own.operations + 2 * channels * predicted, 0)


def published_sequence(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    prediction_weight: Tensor,
    prediction_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sequence of the published head in training."""
    size = maps[0].shape[2:]
    upsampled = [x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear") for x in maps]
    y = F.conv2d(torch.cat(upsampled, 1), weight, bias)
    normalised, mean, variance = batch_norm(y, norm_weight, norm_bias)
    return F.conv2d(F.relu(normalised), prediction_weight, prediction_bias), mean, variance
