"""What a task is: data in a registry, to which others can be added from outside."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seqca.colour import colour_classes, colour_depth, colour_normals, colour_probability
from seqca.labels import IGNORE, LabelRange
from seqca.loss_type import Loss

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(frozen=True)
class Task:
    """Everything the package knows about a task.

    Args:
        name: its name in data sets, outputs, scores and on the command line.
        channels: of the raw network output; None where the data set decides (the number of classes).
        weight: default weight in the multi-task objective.
        loss: what is minimised: one of the losses that are fused with the upsampling, or a function of the
            upsampled prediction (B, C, H, W) and the label that returns a scalar.
        metric: import path "module:Class" of its `torchmetrics.Metric`, whose `compute` returns {score:
            value}. The class is called with the number of channels where `channels` is None, else without
            arguments.
        score: the primary one of those scores.
        higher_is_better: whether a larger primary score is the better one.
        unit: of the primary score; empty for a ratio in [0, 1].
        labels: what a valid label holds.
        decode: raw network output (B, C, H, W), at any resolution -> prediction with units.
        colour: prediction or label as a NumPy array without batch dimension -> RGB (H, W, 3) uint8.
    """

    name: str
    channels: int | None
    weight: float
    loss: Loss | Callable[[Tensor, Tensor], Tensor]
    metric: str
    score: str
    higher_is_better: bool
    unit: str
    labels: LabelRange
    decode: Callable[[Tensor], Tensor]
    colour: Callable[..., np.ndarray]

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or "." in self.name:
            raise ValueError(f"a task's name must not be empty nor contain '/' or '.', got {self.name!r}")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels of task {self.name!r} must be positive, got {self.channels}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight of task {self.name!r} must be finite and not negative, got {self.weight}")
        if self.metric.count(":") != 1:
            raise ValueError(f"metric of task {self.name!r} must be 'module:Class', got {self.metric!r}")

    def metric_class(self) -> "Callable[..., Metric]":
        """The class that `metric` names; importing it may need torchmetrics."""
        module, _, name = self.metric.partition(":")
        return getattr(importlib.import_module(module), name)

    def build_metric(self, channels: int | None = None) -> "Metric":
        """A fresh metric; `channels`, those of the raw output, are needed where the data set decides them."""
        if self.channels is None:
            if channels is None:
                raise ValueError(f"task {self.name!r} has as many channels as the data set says: give channels")
            return self.metric_class()(channels)
        if channels not in (None, self.channels):
            raise ValueError(f"task {self.name!r} has {self.channels} channels, got {channels}")
        return self.metric_class()()


_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Add a task to the registry; a name that is taken raises ValueError."""
    if task.name in _TASKS:
        raise ValueError(f"a task named {task.name!r} is registered already")
    _TASKS[task.name] = task
    return task


def get_task(name: str) -> Task:
    """The task of that name; ValueError with the names there are if there is none."""
    if name not in _TASKS:
        raise ValueError(f"task {name!r} is unknown; registered are {', '.join(_TASKS)}")
    return _TASKS[name]


def available_tasks() -> tuple[str, ...]:
    """Names of the registered tasks, in the order of registration."""
    return tuple(_TASKS)


def decode_classes(logits: Tensor) -> Tensor:
    """Class logits (B, C, H, W) -> class indices (B, H, W) int64."""
    return logits.argmax(1)


def decode_depth(raw: Tensor) -> Tensor:
    """Raw depth (B, 1, H, W) -> metres, not below 0."""
    return raw.clamp(min=0)


def decode_normals(raw: Tensor) -> Tensor:
    """Raw normals (B, 3, H, W) -> unit vectors; the zero vector stays zero."""
    return raw / torch.linalg.vector_norm(raw, dim=1, keepdim=True).clamp(min=torch.finfo(raw.dtype).tiny)


def decode_probability(logits: Tensor) -> Tensor:
    """Logits (B, 1, H, W) -> probabilities."""
    return logits.sigmoid()


# The six tasks of NYUD-v2 and PASCAL-Context, with the losses, weights and scores of Vandenhende et al.,
# "MTI-Net: Multi-Scale Task Interaction Networks for Multi-Task Learning", ECCV 2020, which Kim et al. 2022
# follow.

_CLASSES = LabelRange(0, None, ignore=IGNORE, integer=True)
_BINARY = LabelRange(0, 1, ignore=None)

register_task(Task(
    name="semseg", channels=None, weight=1, loss=Loss("cross_entropy", ignore=IGNORE), labels=_CLASSES,
    metric="seqca.metrics:MeanIoU", score="mIoU", higher_is_better=True, unit="",
    decode=decode_classes, colour=colour_classes,
))  # fmt: skip
register_task(Task(
    name="depth", channels=1, weight=1, loss=Loss("l1", ignore=IGNORE),
    labels=LabelRange(1e-3, None, ignore=IGNORE),
    metric="seqca.metrics:DepthError", score="rmse", higher_is_better=False, unit="m",
    decode=decode_depth, colour=colour_depth,
))  # fmt: skip
register_task(Task(
    name="normals", channels=3, weight=10, loss=Loss("unit_l1", ignore=IGNORE),
    labels=LabelRange(-1, 1, ignore=IGNORE, unit_norm=True),
    metric="seqca.metrics:NormalError", score="mean", higher_is_better=False, unit="°",
    decode=decode_normals, colour=colour_normals,
))  # fmt: skip
register_task(Task(
    name="edge", channels=1, weight=50, loss=Loss("balanced_bce", positive_weight=0.95), labels=_BINARY,
    metric="seqca.metrics:PixelEdgeF", score="pixel_f", higher_is_better=True, unit="",
    decode=decode_probability, colour=colour_probability,
))  # fmt: skip
register_task(Task(
    name="sal", channels=1, weight=5, loss=Loss("balanced_bce"), labels=_BINARY,
    metric="seqca.metrics:SaliencyScores", score="mIoU", higher_is_better=True, unit="",
    decode=decode_probability, colour=colour_probability,
))  # fmt: skip
register_task(Task(
    name="human_parts", channels=7, weight=2, loss=Loss("cross_entropy", ignore=IGNORE),
    labels=LabelRange(0, 6, ignore=IGNORE, integer=True),
    metric="seqca.metrics:HumanPartsIoU", score="mIoU", higher_is_better=True, unit="",
    decode=decode_classes, colour=colour_classes,
))  # fmt: skip
