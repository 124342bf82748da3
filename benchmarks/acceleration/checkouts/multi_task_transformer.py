"""What InvPT and TaskPrompter have in common, https://github.com/prismformore/Multi-Task-Transformer.

Both are trained on a ViT of 384 channels here, so that a CPU can train them; the published one has 1,024.
"""

import importlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from ..training import Size, SizeError

WIDTH, DEPTH, HEADS, PATCH = 384, 12, 6, 16
READ = range(3, DEPTH, 3)
"""Layers, counted from 1, after which features are read, beside the last one."""
WEIGHTS = {"semseg": 1.0, "depth": 1.0, "normals": 10.0, "edge": 50.0}
"""Of the tasks in its objective."""
LOSSES = ("CrossEntropyLoss", "BalancedBinaryCrossEntropyLoss", "L1Loss")
"""Classes that are recognised in the files of both."""


class Settings(SimpleNamespace):
    """What its modules expect of an EasyDict."""

    def keys(self) -> Sequence[str]:
        """Names of the settings."""
        return list(vars(self))


class Objective(nn.Module):
    """Its criterion for all tasks."""

    def __init__(self, criterion: nn.Module, tasks: Sequence[str]) -> None:
        super().__init__()
        self.criterion, self.tasks = criterion, tasks

    def forward(self, output: Any, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses by name, the total among them."""
        losses: dict[str, Tensor] = self.criterion(output, labels, tasks=self.tasks)
        return losses


def check_size(size: Size) -> None:
    """Refuses images whose tokens cannot be halved, or parted into windows, as often as they are.

    Raises:
        SizeError: names the sides.
    """
    if size.height % 64 or size.width % 64:
        raise SizeError(f"got {size.height}×{size.width}, expected multiples of 64, such as 448×576")


def vit_settings(size: Size) -> dict[str, Any]:
    """What both ViTs are told."""
    return {
        "select_list": READ,
        "img_size": (size.height, size.width),
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
    }


def objective(settings: Settings, tasks: Sequence[str]) -> nn.Module:
    """Its MultiTaskLoss for tasks of NYUD-v2, from a checkout that is importable."""
    losses, schemes = (importlib.import_module(f"losses.{name}") for name in ("loss_functions", "loss_schemes"))
    makers = {
        "semseg": losses.CrossEntropyLoss,
        "depth": lambda: losses.L1Loss(ignore_index=255),
        "normals": lambda: losses.L1Loss(normalize=True, ignore_index=255),
        "edge": lambda: losses.BalancedBinaryCrossEntropyLoss(pos_weight=0.95),
    }
    inner = nn.ModuleDict({task: makers[task]() for task in tasks})
    weights = {task: WEIGHTS[task] for task in tasks}
    return Objective(schemes.MultiTaskLoss(settings, list(tasks), inner, weights), list(tasks))
