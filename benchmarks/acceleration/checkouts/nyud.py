"""Tasks of NYUD-v2 as MTI-Net's code has them, which the authors' is made from: losses, labels, batches."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, nn

from seqca.configuration import NYUD_TASKS
from seqca.tasks import get_task

from ...cases.labels import labels
from ...cases.shapes import Dataset
from ..training import Batch, Size

COMMON_KINDS = ("residual.basicblock", "residual.bottleneck", "mti_net.deep_supervision", "mti_net.loss")
"""Of the parts that both have on an HRNet, with the criterion below."""
COMMON_CLASSES = (
    *("BasicBlock", "Bottleneck", "HighResolutionHead", "MultiTaskDistillationModule", "MTINet", "MTINetLoss"),
    *("SoftMaxwithLoss", "DepthLoss", "BalancedCrossEntropyLoss", "NormalsLoss"),
)
"""That are recognised in the files of both."""


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
    """Makes batches of random images and labels of rooms, in the shapes of its loader; a tenth is ignored."""
    data = Dataset("nyud", *size, {task: NYUD_TASKS[task] for task in tasks})

    def batch(generator: Generator) -> Batch:
        images = torch.randn(size.images, 3, size.height, size.width, generator=generator)
        made = labels(data, generator)
        if "semseg" in made:
            made["semseg"] = made["semseg"][:, None].float()
        return images, made

    return batch
