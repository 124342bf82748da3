"""Cases of `softplus`: queries and keys of one task's map for all its pairs, as the network has them."""

from collections.abc import Iterator

from torch import Generator

from seqca.configuration import NETWORK
from seqca.ops.shared.operator import Call

from ..harness.case import DTYPES, Cost
from ..harness.operator_case import Arguments, OperatorCase, normal
from .shapes import CHANNELS, Dataset, Plan, tokens_per_scale


def cases(plan: Plan) -> Iterator[OperatorCase]:
    """Every scale of every data set."""
    for data in plan.datasets:
        for scale in plan.scales:
            for dtype in plan.dtypes:
                for direction in plan.directions:
                    yield case(data, scale, dtype, direction, plan)


def case(data: Dataset, scale: int, dtype: str, direction: str, plan: Plan) -> OperatorCase:
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
        device=plan.device,
        sizes={"tokens": tokens, "channels": channels, "tasks": len(data.tasks)},
        draw=draw,
        least_cost=cost(tokens * channels, DTYPES[dtype].itemsize, direction),
        call=Call(plan.device, DTYPES[dtype], 1, tokens * channels),
        modes=plan.modes(),
    )


def cost(elements: int, itemsize: int, direction: str) -> Cost:
    """What softplus cannot avoid: forward an exponential and a logarithm, backward an exponential per element."""
    forward, backward = (2, 2), (3, 1)
    chosen = {"forward": [forward], "backward": [backward], "both": [forward, backward]}[direction]
    tensors, exponentials = (sum(part) for part in zip(*chosen, strict=True))
    return Cost(tensors * elements * itemsize, 0, exponentials * elements)
