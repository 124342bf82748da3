"""Batch norm modules whose arithmetic an operator does: what it needs of them, and what they take from it."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def uses_batch_statistics(bn: nn.BatchNorm2d | nn.SyncBatchNorm) -> bool:
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


def synchronised_over(bn: nn.BatchNorm2d | nn.SyncBatchNorm) -> "ProcessGroup | None":
    """The processes over which statistics of the batch are taken; None for this one alone."""
    if not isinstance(bn, nn.SyncBatchNorm) or not dist.is_available() or not dist.is_initialized():
        return None
    group = bn.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def update_running_statistics(bn: nn.BatchNorm2d | nn.SyncBatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Updates the running statistics as a forward pass of the module would, in training.

    Args:
        bn: the module.
        mean: of the batch, (C,).
        variance: of the batch, unbiased.
    """
    if not bn.training or bn.running_mean is None or bn.running_var is None or bn.num_batches_tracked is None:
        return
    bn.num_batches_tracked.add_(1)
    for running, new in ((bn.running_mean, mean), (bn.running_var, variance)):
        weight = 1 / bn.num_batches_tracked.to(running) if bn.momentum is None else bn.momentum
        torch.lerp(running, new.to(running), weight, out=running)
