"""Cases of `upsampled_loss`: the tasks' losses at the sizes of the data sets."""

from collections.abc import Iterator
from itertools import product

from torch import Generator

from seqca.configuration import NETWORK
from seqca.loss_type import Loss
from seqca.ops.shared.operator import Call
from seqca.tasks import get_task

from ..harness.case import DTYPES, Cost
from ..harness.operator_case import Arguments, OperatorCase, normal
from .labels import ignored_rows, label
from .shapes import CaseSet, Dataset

STRIDE = NETWORK.strides[0]
"""Of the final prediction and of the finest deep one, which cost the most."""


def cases(wanted: CaseSet) -> Iterator[OperatorCase]:
    """Every task of every data set. There is no pass backward: the gradient is computed with the loss."""
    directions = [direction for direction in wanted.directions if direction != "backward"]
    for data in wanted.datasets:
        for (task, channels), dtype, direction in product(data.tasks.items(), wanted.dtypes, directions):
            yield case(data, task, channels, dtype, direction, wanted)


def case(data: Dataset, task: str, channels: int, dtype: str, direction: str, wanted: CaseSet) -> OperatorCase:
    """The loss of one task's prediction at stride 4."""
    loss = get_task(task).loss
    assert isinstance(loss, Loss)
    low = (data.height // STRIDE, data.width // STRIDE)

    def draw(generator: Generator) -> Arguments:
        prediction = normal((data.batch, channels, *low), dtype, generator)
        if loss.kind == "unit_l1":  # away from zero, where a direction has no limit and one pixel's error can be any
            prediction[:, 0] += 6
        target = label(task, channels, data, generator)
        return Arguments({"prediction": prediction, "target": target, "loss": loss}, ("prediction",), None)

    tokens, pixels = data.batch * low[0] * low[1], data.batch * data.height * data.width
    coupled = loss.kind in ("cross_entropy", "unit_l1")
    return OperatorCase(
        operator="upsampled_loss",
        shape=f"{data.name}-{task}",
        dtype=dtype,
        direction=direction,
        device=wanted.device,
        sizes={"tokens": tokens, "channels": channels, "pixels": pixels},
        draw=draw,
        least_cost=cost(loss, channels, data, DTYPES[dtype].itemsize, direction),
        call=Call(wanted.device, DTYPES[dtype], channels if coupled else 1, pixels),
        modes=wanted.modes(),
    )


def cost(loss: Loss, channels: int, data: Dataset, itemsize: int, direction: str) -> Cost:
    """What the loss of one prediction cannot avoid.

    The prediction and the label are read once; with gradients, one of the prediction's size is written.
    Interpolation is separable and one multiplication and addition per value and axis, as often again for the
    gradient. Cross-entropy needs an exponential per class and a logarithm per valid pixel, the two-class losses
    one of each, the loss of unit vectors a root; a gradient takes these values over.
    """
    low = (data.height // STRIDE, data.width // STRIDE)
    pixels = data.batch * data.width * data.height
    valid = pixels if loss.ignore is None else data.batch * data.width * (data.height - ignored_rows(data))
    label_bytes = {"cross_entropy": 8, "balanced_bce": 4, "two_class": 4}.get(loss.kind, 4 * channels)
    special = {"cross_entropy": channels + 1, "balanced_bce": 2, "two_class": 2, "unit_l1": 1, "l1": 0}
    passes = 1 if direction == "forward" else 2
    prediction = data.batch * channels * low[0] * low[1] * itemsize
    return Cost(
        passes * prediction + pixels * label_bytes,
        passes * 2 * data.batch * channels * data.height * (low[1] + data.width),
        valid * special[loss.kind],
    )
