"""Arguments as the schema of a custom operator can have them."""

from collections.abc import Sequence

from torch import Tensor

from .checks import check_list


def given(*tensors: Tensor | None) -> list[Tensor]:
    """Those that are not None."""
    return [x for x in tensors if x is not None]


def distinct_maps(maps: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Every tensor object of a list once, and for each place of the list the index of its own.

    Raises:
        TypeError: no list of tensors.
        ValueError: an empty one.
    """
    check_list("maps", maps)
    if not maps:
        raise ValueError("maps: got no map, expected at least one")
    distinct: list[Tensor] = []
    order = []
    for x in maps:
        found = [i for i, other in enumerate(distinct) if other is x]
        if not found:
            found = [len(distinct)]
            distinct.append(x)
        order.append(found[0])
    return distinct, order
