"""What a task is: data in a registry, to which others can be added from outside."""

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from seqca.colour import colour_classes, colour_depth, colour_normals, colour_probability
from seqca.labels import IGNORE, LabelKind, LabelRange
from seqca.loss_type import Loss

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(frozen=True)
class Score:
    """How the predictions of a task are scored. A data set may bring a score of its own in place of the task's.

    Args:
        name: the primary one of the scores that the metric computes.
        metric: import path "module:Class" of a `torchmetrics.Metric`, whose `compute` returns {score: value}.
        higher_is_better: whether a larger primary score is the better one.
        unit: of the primary score; empty for a ratio in [0, 1].
        options: keyword arguments of the class.
        quick: further ones, with which scoring is fast and only roughly right, for validation during training.
    """

    name: str
    metric: str
    higher_is_better: bool
    unit: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric.count(":") != 1:
            raise ValueError(f"metric: got {self.metric!r}, expected 'module:Class'")

    def metric_class(self) -> "Callable[..., Metric]":
        """The class that `metric` names; importing it may need torchmetrics."""
        module, _, name = self.metric.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Task:
    """Everything the package knows about a task.

    Args:
        name: its name in data sets, outputs, scores and on the command line: an identifier, and none that
            `torch.nn.ModuleDict`, in which networks keep the parts of their tasks, uses itself (such as "train").
        kind: what the values of its label are, which decides how augmentation treats them and how they are drawn.
        channels: of the raw network output; None where the data set decides (the number of classes).
        weight: default weight in the multi-task objective.
        loss: what is minimised: one of the losses that are fused with the upsampling, or a function of the
            upsampled prediction (B, C, H, W) and the label that returns a scalar.
        score: how it is scored. The metric's class is called with the number of channels in front of the score's
            options where `channels` is None, else with the options alone.
        labels: what a valid label holds.
        decode: raw network output (B, C, H, W), at any resolution -> prediction with units.
        colour: prediction or label as a NumPy array without batch dimension -> RGB (H, W, 3) uint8.
    """

    name: str
    kind: LabelKind
    channels: int | None
    weight: float
    loss: Loss | Callable[[Tensor, Tensor], Tensor]
    score: Score
    labels: LabelRange
    decode: Callable[[Tensor], Tensor]
    colour: Callable[..., np.ndarray]

    def __post_init__(self) -> None:
        check_task_name("name", self.name)
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels of task {self.name!r}: got {self.channels}, expected at least 1")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight of task {self.name!r}: got {self.weight}, expected a finite number, not negative")
        if (self.kind is LabelKind.CLASS) != self.labels.integer:
            raise ValueError(
                f"kind of task {self.name!r}: got {self.kind} with labels.integer = {self.labels.integer}, "
                f"expected {LabelKind.CLASS} for class indices and nothing else"
            )

    def build_metric(self, channels: int | None = None, score: Score | None = None, *, quick: bool = False) -> "Metric":
        """A fresh metric of `score` (by default the task's own); `channels`, those of the raw output, are needed
        where the data set decides them; `quick` for the score's quick options."""
        score = score or self.score
        options = {**score.options, **score.quick} if quick else score.options
        if self.channels is None:
            if channels is None:
                raise ValueError(f"channels: got None, expected the number that the data set gives task {self.name!r}")
            return score.metric_class()(channels, **options)
        if channels not in (None, self.channels):
            raise ValueError(f"channels: got {channels}, expected {self.channels} for task {self.name!r}")
        return score.metric_class()(**options)


_OF_MODULE_DICT = frozenset(dir(nn.ModuleDict()))


def check_task_name(argument: str, name: str) -> None:
    """Refuses a name that no part of a network could have.

    Raises:
        ValueError: no identifier, or one that `torch.nn.ModuleDict` uses itself.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{argument}: got {name!r}, expected the name of a task, an identifier")
    if name in _OF_MODULE_DICT:
        raise ValueError(f"{argument}: got {name!r}, expected a name that torch.nn.ModuleDict does not use itself")


_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Add a task to the registry; a name that is taken raises ValueError."""
    if task.name in _TASKS:
        raise ValueError(f"task: got the name {task.name!r}, expected one that is not registered yet")
    _TASKS[task.name] = task
    return task


def get_task(name: str) -> Task:
    """The task of that name; ValueError with the names there are if there is none."""
    if name not in _TASKS:
        raise ValueError(f"task: got {name!r}, expected one of {', '.join(_TASKS)}")
    return _TASKS[name]


def primary_scores(tasks: Iterable[str], scores: Mapping[str, Score] | None = None) -> dict[str, Score]:
    """How each of `tasks` is scored: as `scores`, those of a data set, say, or else in the task's own way."""
    own = scores or {}
    return {name: own[name] if name in own else get_task(name).score for name in tasks}


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
    """Logits (B, 1, H, W), or those of the two classes "no" and "yes" (B, 2, H, W) -> probabilities (B, 1, H, W)."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)[:, 1:]


# The six tasks of NYUD-v2 and PASCAL-Context, with the losses, weights and scores of Vandenhende et al.,
# "MTI-Net: Multi-Scale Task Interaction Networks for Multi-Task Learning", ECCV 2020, which Kim et al. 2022
# follow.

_CLASSES = LabelRange(0, None, ignore=IGNORE, integer=True)
_BINARY = LabelRange(0, 1, ignore=None)

register_task(Task(
    name="semseg", kind=LabelKind.CLASS, channels=None, weight=1,
    loss=Loss("cross_entropy", ignore=IGNORE), labels=_CLASSES,
    score=Score("mIoU", "seqca.metrics:MeanIoU", higher_is_better=True),
    decode=decode_classes, colour=colour_classes,
))  # fmt: skip
register_task(Task(
    name="depth", kind=LabelKind.DISTANCE, channels=1, weight=1, loss=Loss("l1", ignore=IGNORE),
    labels=LabelRange(1e-3, None, ignore=IGNORE),
    score=Score("rmse", "seqca.metrics:DepthError", higher_is_better=False, unit="m"),
    decode=decode_depth, colour=colour_depth,
))  # fmt: skip
register_task(Task(
    name="normals", kind=LabelKind.VECTOR, channels=3, weight=10, loss=Loss("unit_l1", ignore=IGNORE),
    labels=LabelRange(-1, 1, ignore=IGNORE, unit_norm=True),
    score=Score("mean", "seqca.metrics:NormalError", higher_is_better=False, unit="°"),
    decode=decode_normals, colour=colour_normals,
))  # fmt: skip
register_task(Task(
    name="edge", kind=LabelKind.BINARY, channels=1, weight=50,
    loss=Loss("balanced_bce", positive_weight=0.95), labels=_BINARY,
    score=Score("pixel_f", "seqca.metrics:PixelEdgeF", higher_is_better=True),
    decode=decode_probability, colour=colour_probability,
))  # fmt: skip
register_task(Task(
    name="sal", kind=LabelKind.BINARY, channels=1, weight=5, loss=Loss("balanced_bce"), labels=_BINARY,
    score=Score("mIoU", "seqca.metrics:SaliencyScores", higher_is_better=True),
    decode=decode_probability, colour=colour_probability,
))  # fmt: skip
register_task(Task(
    name="human_parts", kind=LabelKind.CLASS, channels=7, weight=2, loss=Loss("cross_entropy", ignore=IGNORE),
    labels=LabelRange(0, 6, ignore=IGNORE, integer=True),
    score=Score("mIoU", "seqca.metrics:HumanPartsIoU", higher_is_better=True),
    decode=decode_classes, colour=colour_classes,
))  # fmt: skip
