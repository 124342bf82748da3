"""The calls of fused operators that a training step of the network makes, recorded from the network itself."""

from collections.abc import Mapping
from functools import cache

import torch

from seqca.configuration import IMAGE, NYUD_TASKS
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet
from seqca.ops.shared.dispatch import record_calls, use_backend
from seqca.ops.shared.operator import OPERATORS, Call
from seqca.tasks import get_task


def network_calls(
    tasks: Mapping[str, int] = NYUD_TASKS, height: int = IMAGE[0], width: int = IMAGE[1], batch: int = 1
) -> dict[str, tuple[Call, ...]]:
    """What the forward pass and the losses of a training step ask of every operator, each different call once.

    Nothing is computed: the network runs on tensors without memory, so the calls are on the device "meta" and in
    float32.

    Args:
        tasks: {name: output channels}, in order.
        height, width: sides of the images, multiples of 32.
        batch: number of images.

    Returns:
        {operator: its calls, ordered by channels, those with most tokens first; none if the network does without it}.
    """
    return _recorded(tuple(tasks.items()), height, width, batch)


@cache
def _recorded(tasks: tuple[tuple[str, int], ...], height: int, width: int, batch: int) -> dict[str, tuple[Call, ...]]:
    channels = dict(tasks)
    criterion = MultiTaskLoss(channels)
    with torch.device("meta"), torch.no_grad(), use_backend("aten"), record_calls() as calls:
        output = SequentialCrossAttentionNet(channels)(torch.empty(batch, 3, height, width))
        targets = {
            task: torch.empty(batch, height, width, dtype=torch.int64)
            if get_task(task).labels.integer
            else torch.empty(batch, n, height, width)
            for task, n in channels.items()
        }
        criterion(output, targets)
    found: dict[str, set[Call]] = {operator: set() for operator in OPERATORS}
    for operator, call in calls:
        found[operator].add(call)
    return {operator: tuple(sorted(different, key=_order)) for operator, different in found.items()}


def _order(call: Call) -> tuple[int, int]:
    return call.channels, -call.tokens
