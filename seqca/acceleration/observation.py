"""What one forward pass of a training step shows: what parts keep for backward and which operators they call, and how
many values batch norms have."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm

from seqca.nn.batch_norm import synchronised_over, uses_batch_statistics
from seqca.ops.shared.dispatch import record_calls, resolve
from seqca.ops.shared.operator import OPERATORS, Call

from .trial import Trial

WHOLE = ""
"""The path of the whole step."""


class Observed(NamedTuple):
    """What was seen of a part."""

    kept: int
    """Bytes kept for backward: of each storage once, of parameters and buffers none."""
    operators: tuple[str, ...]
    """``"aggregation_head (aten)"``, in the order in which they were first called."""


class Normalised(NamedTuple):
    """What a batch norm takes its statistics from."""

    values: int
    """Of each channel."""
    path: str
    """Of the norm."""


class _Part:
    """What is noted of a part while it runs."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}  # bytes by address
        self.calls: list[tuple[str, Call]] = []


def observe(trial: Trial, paths: Sequence[str]) -> dict[str, Observed]:
    """Makes the forward pass and the losses of a step.

    Args:
        trial: whose.
        paths: of the parts.

    Returns:
        By path; `WHOLE` is the step.
    """
    root, sample = trial.prepared(trial.inputs())
    parts = {path: _Part() for path in (WHOLE, *paths)}
    owned = {x.untyped_storage().data_ptr() for x in (*root.parameters(), *root.buffers())}
    running = [WHOLE]

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in owned:
            for path in running:
                parts[path].storages[storage.data_ptr()] = storage.nbytes()
        return x.detach()  # so that the storage lives and its address stays its own; `x` would keep its graph alive

    with torch.enable_grad(), record_calls() as calls, saved_tensors_hooks(pack, lambda x: x):
        for path in paths:
            _watch(root.get_submodule(path), path, parts[path], running, calls)
        outcome = trial.forward(root, sample)
    del outcome  # till here it held the graph
    return {path: Observed(sum(part.storages.values()), _names(part.calls)) for path, part in parts.items()}


def fewest_normalised(trial: Trial, inputs: Sequence[Tensor]) -> Normalised | None:
    """The batch norm with the fewest values in the forward pass of a training step; None if there is no batch norm.

    Norms over several processes are not counted: they see the values of all of them.

    Args:
        trial: of a model whose norms are called as modules.
        inputs: of the trial.
    """
    root, sample = trial.prepared(inputs)
    seen: list[Normalised] = []

    def note(path: str, normalised: Any) -> None:
        if isinstance(normalised, Tensor):  # a subclass may return something else
            shape = normalised.shape
            seen.append(Normalised(shape[:1].numel() * shape[2:].numel(), path))

    for path, module in root.named_modules():
        if isinstance(module, _BatchNorm) and uses_batch_statistics(module) and synchronised_over(module) is None:
            module.register_forward_hook(lambda _, __, normalised, path=path: note(path, normalised))
    with torch.enable_grad():
        trial.forward(root, sample)
    return min(seen, default=None)


def _watch(module: nn.Module, path: str, part: _Part, running: list[str], calls: list[tuple[str, Call]]) -> None:
    begins: list[int] = []

    def enter(*_: Any) -> None:
        running.append(path)
        begins.append(len(calls))

    def leave(*_: Any) -> None:
        running.remove(path)
        part.calls += calls[begins.pop() :]

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


def _names(calls: Sequence[tuple[str, Call]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{name} ({resolve(OPERATORS[name], call)})" for name, call in calls))
