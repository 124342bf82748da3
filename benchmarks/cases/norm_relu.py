"""Cases of `norm_relu`: the basic blocks of the first features, and the one behind the attention between tasks."""

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
from .shapes import CHANNELS, CaseSet, Dataset, tokens_per_scale


def cases(wanted: CaseSet) -> Iterator[OperatorCase]:
    """All blocks at every scale of every data set."""
    axes = (wanted.datasets, wanted.scales, BLOCKS, wanted.dtypes, wanted.directions)
    for data, scale, block, dtype, direction in product(*axes):
        yield case(data, scale, block, dtype, direction, wanted)


BLOCKS = ("residual", "projection", "targets")


def case(data: Dataset, scale: int, block: str, dtype: str, direction: str, wanted: CaseSet) -> OperatorCase:
    """A block C → C with a residual; one of two maps, C and the next scale's, with a projection; or one of all targets.

    Of M targets, each with its map and those that it gathered, C and (M − 1)·C, and with a projection.
    """
    stride, channels = NETWORK.strides[scale], CHANNELS[scale]
    size = (data.height // stride, data.width // stride)
    projection, batches = block != "residual", len(data.tasks) if block == "targets" else 1
    others = {
        "residual": (),
        "projection": CHANNELS[scale + 1 : scale + 2],
        "targets": (channels * (len(data.tasks) - 1),),
    }
    inputs = [channels, *others[block]]
    layers = [(sum(inputs), 3), (channels, 3), *([(sum(inputs), 1)] if projection else [])]
    images = batches * data.batch
    tokens = images * tokens_per_scale(data)[scale]

    def draw(generator: Generator) -> Arguments:
        maps = [normal((data.batch, c, *size), dtype, generator) for _ in range(batches) for c in inputs]
        # Positive or negative by far in every channel: near zero a ReLU's gradient is chance.
        shift = torch.tensor([8.0, -8.0], device=generator.device).repeat(channels)[:channels]
        arguments = {
            "maps": maps,
            "weights": [
                normal((channels, c, side, side), dtype, generator) / (c * side * side) ** 0.5 for c, side in layers
            ],
            "norm_weights": [torch.ones(channels, dtype=DTYPES[dtype], device=generator.device) for _ in layers],
            "norm_biases": [shift.to(DTYPES[dtype]) for _ in layers],
            "residual": None if projection else normal((images, channels, *size), dtype, generator) / 2,
            "projection": projection,
            "batches": batches,
        }
        differentiable = ("maps", "weights", "norm_weights", "norm_biases", *(() if projection else ("residual",)))
        return Arguments(arguments, differentiable, [normal((images, channels, *size), dtype, generator)])

    return OperatorCase(
        operator="norm_relu",
        shape=f"{data.name}-scale{scale}-{block}",
        dtype=dtype,
        direction=direction,
        device=wanted.device,
        sizes={"tokens": tokens, "channels": channels, "inputs": sum(inputs)},
        draw=draw,
        least_cost=cost(tokens, sum(inputs), channels, projection, DTYPES[dtype].itemsize, direction),
        call=Call(wanted.device, DTYPES[dtype], channels, tokens),
        modes=wanted.modes(),
        published=published_sequence,
    )


def cost(tokens: int, inputs: int, channels: int, projection: bool, itemsize: int, direction: str) -> Cost:
    """Maps in and out, and the convolutions' outputs, written and read once: a norm waits for all of its own.

    Backward reads them again. Its products are twice those forward, and the projection's once more.
    """
    products, residual = 2 * tokens * channels * 9 * (inputs + channels), 0 if projection else channels
    projected = 2 * tokens * channels * inputs if projection else 0
    norms = 2 + projection
    forward = inputs + residual + channels + 2 * norms * channels
    backward = 2 * (inputs + residual) + channels + norms * channels
    return Cost.of(
        direction,
        Cost(tokens * forward * itemsize, products + projected, 0),
        Cost(tokens * backward * itemsize, 2 * products + 3 * projected, 0),
    )


def published_sequence(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    projection: bool,
    batches: int,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The sequence of the published basic block in training, called for each batch."""
    parameters = (weights, norm_weights, norm_biases)
    if batches == 1:
        return _published_block(maps, *parameters, residual, projection)
    count = len(maps) // batches
    results = [_published_block(maps[i : i + count], *parameters, None, projection) for i in range(0, len(maps), count)]
    outputs, *statistics = zip(*results, strict=True)
    means, variances = ([torch.stack(layer) for layer in zip(*found, strict=True)] for found in statistics)
    return torch.cat(outputs), means, variances


def _published_block(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    projection: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Two layers, and the residual or its projection."""
    statistics: list[tuple[Tensor, Tensor]] = []

    def layer(i: int, x: Tensor) -> Tensor:
        y = F.conv2d(x, weights[i], padding=weights[i].shape[2] // 2)
        normalised, *moments = batch_norm(y, norm_weights[i], norm_biases[i])
        statistics.append((moments[0], moments[1]))
        return normalised

    x = torch.cat(list(maps), 1) if len(maps) > 1 else maps[0]
    y = layer(1, F.relu(layer(0, x)))
    shortcut = layer(2, x) if projection else residual
    assert shortcut is not None
    means, variances = ([own[which] for own in statistics] for which in (0, 1))
    return F.relu(y + shortcut), means, variances
