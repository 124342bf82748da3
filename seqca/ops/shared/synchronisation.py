"""Sums over the processes of a group, in the order of their ranks: the same bits in every run and in every process.

A custom operator takes the name of a group, since its schema has no groups; "" is this process alone.
"""

import torch
import torch.distributed as dist
from torch import Tensor

_groups: dict[str, "dist.ProcessGroup"] = {}


def group_name(group: "dist.ProcessGroup | None") -> str:
    """The name by which operators find a group again; "" for None."""
    if group is None:
        return ""
    _groups[group.group_name] = group
    return group.group_name


def check_group(group: object) -> None:
    """Refuses what is no process group.

    Raises:
        TypeError: names it.
    """
    if group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        raise TypeError(f"group: got {type(group).__name__}, expected a process group of torch.distributed or None")


def refusals_of(group: "dist.ProcessGroup | None") -> dict[str, str]:
    """Backends that cannot take statistics over the processes of a group, and why."""
    return (
        {} if group is None else {"reference": "its batch norms take statistics of one process, and a group is given"}
    )


def merged_moments(tokens: int, mean: Tensor, squares: Tensor, group: str) -> tuple[int | Tensor, Tensor, Tensor]:
    """Number of tokens, means, and sums of squared deviations from them, of all processes together (Chan et al. 1983).

    Args:
        tokens: of this process.
        mean, squares: of this process, both of any shape.
        group: name of the group.
    """
    if not group:
        return tokens, mean, squares
    counts, means, deviations = _gathered(tokens, mean, squares, group)
    total = counts.sum(0)
    merged = (counts * means).sum(0) / total
    deviations = deviations + counts * (means - merged).square()
    return total, merged.view_as(mean).to(mean), deviations.sum(0).view_as(mean).to(mean)


def merged_covariance(tokens: int, mean: Tensor, covariance: Tensor, group: str) -> tuple[int | Tensor, Tensor, Tensor]:
    """Number of tokens, means (C,) and covariances (C, C), divided by that number, of all processes together.

    Args:
        tokens: of this process.
        mean, covariance: of this process, in float64.
        group: name of the group.
    """
    if not group:
        return tokens, mean, covariance
    counts, means, scatters = _gathered(tokens, mean, tokens * covariance, group)
    total = counts.sum(0)
    merged = (counts * means).sum(0) / total
    apart = means - merged
    between = torch.mm((counts * apart).T, apart)
    return total, merged, (scatters.sum(0).view_as(covariance) + between) / total


def summed(tokens: int, first: Tensor, second: Tensor, group: str) -> tuple[int | Tensor, Tensor, Tensor]:
    """A number and two tensors, each summed over the processes."""
    if not group:
        return tokens, first, second
    total, one, other = (x.sum(0) for x in _gathered(tokens, first, second, group))
    return total, one.view_as(first).to(first), other.view_as(second).to(first)


def _gathered(number: int, first: Tensor, second: Tensor, group: str) -> tuple[Tensor, Tensor, Tensor]:
    """By process, in float64 and flat: (processes, 1), (processes, numbers of the first), those of the second."""
    if group not in _groups:  # as in a compiled graph that another process made
        raise ValueError(f"group: got {group!r}, expected a process group of this process")
    flat = first.double().flatten(), second.double().flatten()
    own = torch.cat([first.new_full((1,), number, dtype=torch.float64), *flat])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(_groups[group]))]
    dist.all_gather(parts, own, _groups[group])
    numbers, firsts, seconds = torch.stack(parts).split([1, first.numel(), second.numel()], 1)
    return numbers, firsts, seconds
