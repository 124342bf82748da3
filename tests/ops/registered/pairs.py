"""Test cases that combine every two values of different axes, in far fewer cases than their product."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

Case = dict[str, Any]


def all_pairs(**axes: Sequence[Any]) -> list[Case]:
    """Cases, one value per axis, such that each pair of values of two axes occurs in at least one.

    Greedy and deterministic: a case starts from a pair that is missing and is completed, axis by axis, with
    the value that adds most missing pairs.
    """
    missing = {
        ((a, i), (b, j)): None
        for a, b in combinations(axes, 2)
        for i in range(len(axes[a]))
        for j in range(len(axes[b]))
    }
    cases = []
    while missing:
        chosen = dict(next(iter(missing)))
        for axis in axes:
            if axis not in chosen:
                chosen[axis] = max(
                    range(len(axes[axis])), key=lambda i: sum(pair in missing for pair in _pairs(chosen, axis, i, axes))
                )
        for pair in combinations([(axis, chosen[axis]) for axis in axes], 2):
            missing.pop(pair, None)
        cases.append({axis: axes[axis][chosen[axis]] for axis in axes})
    return cases


def _pairs(chosen: dict[str, int], axis: str, value: int, axes: Case) -> list[tuple[tuple[str, int], ...]]:
    order = list(axes)
    with_value = [((other, index), (axis, value)) for other, index in chosen.items()]
    return [tuple(sorted(pair, key=lambda item: order.index(item[0]))) for pair in with_value]
