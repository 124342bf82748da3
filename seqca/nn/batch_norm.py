"""Batch norm modules whose arithmetic an operator does: what it needs of them, and what they take from it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_Update = tuple[nn.BatchNorm2d | nn.SyncBatchNorm, Tensor, Tensor]
"""A module, mean, and variance."""

_thread = threading.local()
"""Where a thread has updates that wait, a list of them."""


def uses_batch_statistics(bn: _BatchNorm) -> bool:
    """Whether the module would normalise by the statistics of the batch: in training, or where it has no others."""
    return bn.training or bn.running_mean is None


def running_statistics(bn: nn.BatchNorm2d | nn.SyncBatchNorm) -> tuple[Tensor, Tensor]:
    """Mean and variance of a batch norm that uses its running statistics.

    Raises:
        ValueError: it has none.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("batch norm: got one without running statistics, expected one that tracks them")
    return bn.running_mean, bn.running_var


def synchronised_over(bn: _BatchNorm) -> "ProcessGroup | None":
    """The processes over which statistics of the batch are taken; None for this one alone."""
    if not isinstance(bn, nn.SyncBatchNorm) or not dist.is_available() or not dist.is_initialized():
        return None
    group = bn.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def update_running_statistics(
    norms: Sequence[nn.BatchNorm2d | nn.SyncBatchNorm], means: Sequence[Tensor], variances: Sequence[Tensor]
) -> None:
    """Updates the running statistics of modules as their forward passes would, in training, in this order.

    Args:
        norms: the modules. Those that are in evaluation mode, or track nothing, stay as they are.
        means: of the batch, (C,) each.
        variances: of the batch, unbiased.
    """
    entries = zip(norms, means, variances, strict=True)
    updates = [entry for entry in entries if entry[0].training and entry[0].num_batches_tracked is not None]
    waiting = None if torch.compiler.is_compiling() else getattr(_thread, "waiting", None)
    if waiting is None:
        _update(updates)
    else:
        waiting.extend(updates)


@contextmanager
def updates_together() -> Iterator[None]:
    """Running statistics are updated at the end, those of all modules together: on a GPU in a few launches.

    Where updates are compiled, or another such context is around this one, nothing is changed.
    """
    if torch.compiler.is_compiling() or getattr(_thread, "waiting", None) is not None:
        yield
        return
    _thread.waiting = []
    try:
        yield
        _update(_thread.waiting)
    finally:
        _thread.waiting = None


def _update(updates: Sequence[_Update]) -> None:
    """All first updates of the modules together, then all second ones, …, by their momentum."""
    turns: dict[int, int] = {}
    together: dict[tuple[int, float | None], list[_Update]] = {}
    for update in updates:
        bn = update[0]
        turn = turns[id(bn)] = turns.get(id(bn), -1) + 1
        together.setdefault((turn, bn.momentum), []).append(update)
    for (_, momentum), entries in together.items():
        counts = [cast(Tensor, bn.num_batches_tracked) for bn, _, _ in entries]
        torch._foreach_add_(counts, 1)
        running = [x for bn, _, _ in entries for x in running_statistics(bn)]
        found = [x for _, *statistics in entries for x in statistics]
        new = [x.to(old) for x, old in zip(found, running, strict=True)]
        if momentum is None:
            weights = torch._foreach_reciprocal([x.to(running[0]) for x in counts for _ in range(2)])
            torch._foreach_lerp_(running, new, weights)
        else:
            torch._foreach_lerp_(running, new, momentum)
