"""Branches and pairs of `cross_attention`: those of the network, as a schema can have them, and where layers are."""

from collections.abc import Sequence
from typing import NamedTuple

from seqca.reference.cross_attention import Branch, Pair


def between_tasks(tasks: int) -> tuple[list[Branch], list[Pair]]:
    """Every ordered pair of tasks with layers of its own, the last source of a target first; maps are those of tasks.

    A task has a block of queries and one of keys for each of the others, in their order.
    """
    branches = [Branch(i, queries=tasks - 1, keys=tasks - 1) for i in range(tasks)]
    pairs = [
        Pair(i, j - (j > i), j, i - (i > j))  # blocks of those after a task itself move up by one
        for i in range(tasks)
        for j in reversed(range(tasks))
        if j != i
    ]
    return branches, pairs


def from_coarser(tasks: int, coarser: int) -> tuple[list[Branch], list[Pair]]:
    """The map of each task attends to its own coarser ones by the same queries; maps are task by task, finest first."""
    branches, pairs = [], []
    for target in range(0, tasks * (1 + coarser), 1 + coarser):
        sources = range(target + 1, target + 1 + coarser)
        branches += [Branch(target, queries=1), *(Branch(j, keys=1, projected=True) for j in sources)]
        pairs += [Pair(target, 0, j, 0) for j in sources]
    return branches, pairs


class BranchLayers(NamedTuple):
    """Indices of the layers of a branch among all."""

    projection: int | None
    hidden: int
    features: int
    values: int | None


def layers_of(branches: Sequence[Branch]) -> list[BranchLayers]:
    """By branch."""
    result, start = [], 0
    for branch in branches:
        hidden = start + branch.projected
        result.append(
            BranchLayers(
                projection=start if branch.projected else None,
                hidden=hidden,
                features=hidden + 1,
                values=hidden + 2 if branch.keys else None,
            )
        )
        start = hidden + 2 + bool(branch.keys)
    return result


def flattened(records: Sequence[Branch] | Sequence[Pair]) -> list[int]:
    """Their numbers one after the other."""
    return [int(number) for record in records for number in record]


def branches_of(numbers: Sequence[int]) -> list[Branch]:
    """The inverse of `flattened`."""
    rows = zip(*[iter(numbers)] * len(Branch._fields), strict=True)
    return [Branch(x, queries, keys, bool(projected)) for x, queries, keys, projected in rows]


def pairs_of(numbers: Sequence[int]) -> list[Pair]:
    """The inverse of `flattened`."""
    return [Pair(*row) for row in zip(*[iter(numbers)] * len(Pair._fields), strict=True)]
