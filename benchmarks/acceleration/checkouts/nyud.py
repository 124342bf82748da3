"""Tasks of NYUD-v2 as MTI-Net's code has them, which the authors' is made from: losses, labels, batches."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from seqca.configuration import NYUD_TASKS
from seqca.loss_type import Loss
from seqca.tasks import get_task

from ...cases.shapes import Dataset
from ...cases.upsampled_loss import label
from ..training import Batch, Size


def criterion(tasks: Sequence[str]) -> nn.Module:
    """Its MTINetLoss, from a checkout that is importable."""
    functions, schemes = (importlib.import_module(f"losses.{name}") for name in ("loss_functions", "loss_schemes"))
    makers: dict[str, Callable[[], nn.Module]] = {
        "semseg": functions.SoftMaxwithLoss,
        "depth": lambda: functions.DepthLoss("l1"),
        "normals": lambda: functions.NormalsLoss(normalize=True, size_average=True, norm=1),
        "edge": lambda: functions.BalancedCrossEntropyLoss(size_average=True, pos_weight=0.95),
    }
    losses = nn.ModuleDict({task: makers[task]() for task in tasks})
    weights = {task: get_task(task).weight for task in tasks}
    scheme: Any = schemes.MTINetLoss(list(tasks), list(tasks), losses, weights)
    return scheme


def batches(tasks: Sequence[str], size: Size) -> Callable[[Generator], Batch]:
    """Makes batches of random images and labels, in the shapes of its loader; a tenth of the pixels is ignored."""
    data = Dataset("nyud", *size, {task: NYUD_TASKS[task] for task in tasks})

    def batch(generator: Generator) -> Batch:
        images = torch.randn(size.images, 3, size.height, size.width, generator=generator)
        return images, {task: _label(task, data, generator) for task in tasks}

    return batch


def _label(task: str, data: Dataset, generator: Generator) -> Tensor:
    loss = get_task(task).loss
    assert isinstance(loss, Loss)
    made = label(loss, data.tasks[task], data, generator)
    if task == "depth":
        made = (1 + made.abs()).where(made != loss.ignore, made)  # metres, of which ATRC takes the logarithm
    return made[:, None].float() if loss.kind == "cross_entropy" else made
