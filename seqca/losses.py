"""The objective: every task's loss on its final and its deep predictions, weighted and summed."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqca.loss_type import Loss
from seqca.ops.upsampled_loss import upsampled_loss
from seqca.protocols import DEFAULT, get_protocol
from seqca.tasks import Task

if TYPE_CHECKING:
    from seqca.models import NetworkOutput


class LossOutput(NamedTuple):
    """What `MultiTaskLoss` returns.

    `total` is the scalar to minimise. `parts` holds the terms it is made of, before weighting: ``"depth"``
    for the final prediction of a task, ``"depth/deep0"`` to ``"depth/deep3"`` for the deep ones, finest
    first.
    """

    total: Tensor
    parts: dict[str, Tensor]


class MultiTaskLoss(nn.Module):
    """Σ weight × loss over the tasks and, for each, its final and its deep predictions.

    Each prediction is upsampled bilinearly to the label's size inside the loss (Kim et al. 2022; deep
    supervision as in Vandenhende et al., "MTI-Net", ECCV 2020: every deep prediction counts as much as the
    final one).

    Args:
        tasks: names of registered tasks (a mapping from names to channels will do).
        weights: weights by task that replace the registry's defaults; finite, not negative.
        auxiliary: names of the tasks that have deep predictions but no final one.
        protocol: "mtinet" or "invpt", whose losses are minimised (`seqca.protocols`).

    Raises:
        ValueError: a task that is not registered or occurs twice, no task at all, a weight for a task that is
            not there, or one that is negative or not finite.
    """

    def __init__(
        self,
        tasks: Iterable[str],
        weights: Mapping[str, float] | None = None,
        auxiliary: Iterable[str] = (),
        protocol: str = DEFAULT,
    ) -> None:
        super().__init__()
        self.tasks = _names("tasks", tasks)
        self.auxiliary = _names("auxiliary", auxiliary)
        everything = (*self.tasks, *self.auxiliary)
        if not self.tasks:
            raise ValueError("tasks: got none, expected at least one")
        if repeated := sorted({name for name in everything if everything.count(name) > 1}):
            raise ValueError(f"tasks, auxiliary: got {', '.join(repeated)} twice, expected each task once")
        rules = get_protocol(protocol)
        self._definitions: dict[str, Task] = {name: rules.task(name) for name in everything}
        self._factors = {name: rules.loss_factors.get(name, 1.0) for name in everything}
        self.weights: dict[str, float] = {name: task.weight for name, task in self._definitions.items()}
        for name, weight in (weights or {}).items():
            if name not in self.weights:
                raise ValueError(f"weights: got one for {name!r}, expected tasks among {', '.join(everything)}")
            if not isinstance(weight, (int, float)) or not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weights[{name!r}]: got {weight!r}, expected a finite number, not negative")
            self.weights[name] = float(weight)

    def forward(self, output: "NetworkOutput", targets: Mapping[str, Tensor]) -> LossOutput:
        """The weighted sum and its parts.

        Args:
            output: `.final` maps each task to its raw prediction (B, C, h, w), `.deep` is a sequence of such
                mappings, finest first, that hold the auxiliary tasks too.
            targets: the labels by task, as `seqca.reference.upsampled_loss` takes them; other entries are not
                looked at.

        Raises:
            TypeError: `output` has no such predictions.
            ValueError: a task whose label or prediction is missing, a prediction of a task that is not there,
                or shapes that do not fit, with the task's name.
        """
        everything = (*self.tasks, *self.auxiliary)
        if not hasattr(output, "final") or not hasattr(output, "deep"):
            raise TypeError(f"output: got {type(output).__name__}, expected what a network returns, .final and .deep")
        if missing := [name for name in everything if name not in targets]:
            raise ValueError(f"targets: got {', '.join(targets) or 'nothing'}, expected {', '.join(missing)} as well")
        _check_tasks("output.final", output.final, self.tasks)
        for level, predictions in enumerate(output.deep):
            _check_tasks(f"output.deep[{level}]", predictions, everything)
        parts: dict[str, Tensor] = {}
        terms: list[Tensor] = []
        for name in everything:
            predictions = {name: output.final[name]} if name in self.tasks else {}
            predictions |= {f"{name}/deep{level}": deep[name] for level, deep in enumerate(output.deep)}
            for key, prediction in predictions.items():
                try:
                    part = _task_loss(prediction, targets[name], self._definitions[name].loss)
                except (TypeError, ValueError) as error:
                    raise type(error)(f"{key}: {error}") from error
                parts[key] = part if self._factors[name] == 1 else self._factors[name] * part
                terms.append(self.weights[name] * parts[key])
        return LossOutput(torch.stack(terms).sum(), parts)


def _task_loss(prediction: Tensor, target: Tensor, loss: Loss | Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    if isinstance(loss, Loss):
        return upsampled_loss(prediction, target, loss)
    return loss(F.interpolate(prediction, target.shape[-2:], mode="bilinear", align_corners=False), target)


def _names(argument: str, names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{argument}: got the string {names!r}, expected a collection of task names")
    return tuple(names)


def _check_tasks(argument: str, predictions: Mapping[str, Tensor], tasks: tuple[str, ...]) -> None:
    if set(predictions) != set(tasks):
        raise ValueError(f"{argument}: got {', '.join(predictions) or 'nothing'}, expected {', '.join(tasks)}")
