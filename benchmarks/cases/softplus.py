"""Cases of `softplus`: queries and keys of one task's map for all its pairs, as the network has them."""

from collections.abc import Iterator
from itertools import product

from torch import Generator

from seqca.configuration import NETWORK
from seqca.ops.shared.operator import Call

from ..harness.case import DTYPES, Cost
from ..harness.operator_case import Arguments, OperatorCase, normal
from .shapes import CHANNELS, CaseSet, Dataset, tokens_per_scale


def cases(wanted: CaseSet) -> Iterator[OperatorCase]:
    """Every scale of every data set."""
    for data, scale, dtype, direction in product(wanted.datasets, wanted.scales, wanted.dtypes, wanted.directions):
        yield case(data, scale, dtype, direction, wanted)


def case(data: Dataset, scale: int, dtype: str, direction: str, wanted: CaseSet) -> OperatorCase:
    """A contiguous map with the queries, then the keys, of every pair side by side in its channels."""
    stride, channels = NETWORK.strides[scale], 2 * (len(data.tasks) - 1) * CHANNELS[scale]
    shape = (data.batch, channels, data.height // stride, data.width // stride)
    tokens = data.batch * tokens_per_scale(data)[scale]

    def draw(generator: Generator) -> Arguments:
        return Arguments({"x": normal(shape, dtype, generator)}, ("x",), [normal(shape, dtype, generator)])

    return OperatorCase(
        operator="softplus",
        shape=f"{data.name}-scale{scale}-tasks{len(data.tasks)}",
        dtype=dtype,
        direction=direction,
        device=wanted.device,
        sizes={"tokens": tokens, "channels": channels, "tasks": len(data.tasks)},
        draw=draw,
        least_cost=cost(tokens * channels, DTYPES[dtype].itemsize, direction),
        call=Call(wanted.device, DTYPES[dtype], 1, tokens * channels),
        modes=wanted.modes(),
    )


def cost(elements: int, itemsize: int, direction: str) -> Cost:
    """What softplus cannot avoid: forward an exponential and a logarithm, backward an exponential per element."""
    forward = Cost(2 * elements * itemsize, 0, 2 * elements)
    return Cost.of(direction, forward, Cost(3 * elements * itemsize, 0, elements))
