"""Batch norm modules whose arithmetic an operator does: what it needs of them, and what they take from it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

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


def update_all_running_statistics(
    norms: Sequence[nn.BatchNorm2d | nn.SyncBatchNorm], means: Sequence[Tensor], variances: Sequence[Tensor]
) -> None:
    """`update_running_statistics` of several modules, together where they have a momentum and dtype in common.

    On a GPU that is two launches instead of three for each module.
    """
    together = [(bn, mean, variance) for bn, mean, variance in zip(norms, means, variances, strict=True) if bn.training]
    momenta = {bn.momentum for bn, _, _ in together}
    alike = all(bn.running_mean is not None and bn.running_mean.dtype == mean.dtype for bn, mean, _ in together)
    momentum = momenta.pop() if len(momenta) == 1 else None
    if momentum is None or not alike:
        for bn, mean, variance in zip(norms, means, variances, strict=True):
            update_running_statistics(bn, mean, variance)
        return
    running = [x for bn, _, _ in together for x in running_statistics(bn)]
    torch._foreach_add_([cast(Tensor, bn.num_batches_tracked) for bn, _, _ in together], 1)
    torch._foreach_lerp_(running, [x for _, *new in together for x in new], momentum)
