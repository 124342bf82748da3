"""Branches and pairs of `cross_attention` as a schema can have them, and where the layers of a branch are."""

from collections.abc import Sequence
from typing import NamedTuple

from seqca.pairs import Branch, Pair


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
