"""Checks of what `cross_attention` is to compute, and of its layers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqca.pairs import Branch, Pair

from .branches import layers_of
from .checks import check_kind, check_vector


def checked_structure(branches: Any, pairs: Any, maps: int) -> tuple[list[Branch], list[Pair]]:
    """Branches and pairs, perhaps given as plain lists of numbers, for so many maps.

    Raises:
        TypeError: no list of them.
        ValueError: an index is of nothing, or a map or block has no use.
    """
    checked = [Branch(*branch) for branch in _entries("branches", branches, Branch)]
    checked = [branch._replace(projected=bool(branch.projected)) for branch in checked]
    links = [Pair(*pair) for pair in _entries("pairs", pairs, Pair)]
    _check_branches(checked, maps)
    _check_pairs(links, checked)
    return checked, links


def check_layers(maps: Sequence[Tensor], lists: dict[str, Sequence[Tensor]], branches: Sequence[Branch]) -> None:
    """Refuses lists of weights, scales and the like that do not fit the branches.

    Args:
        maps: of the call.
        lists: by the argument's name, one tensor for each layer.
        branches: of the call.

    Raises:
        TypeError: a dtype that does not fit that of the maps.
        ValueError: a number of layers, a shape or a device that does not fit.
    """
    places = layers_of(branches)
    count = max(place.values or place.features for place in places) + 1
    for name, tensors in lists.items():
        if len(tensors) != count:
            raise ValueError(
                f"{name}: got {len(tensors)} tensors, expected {count}, one for each layer of the branches"
            )
    weights = lists["weights"]
    features = weights[places[0].features]
    if features.ndim != 4 or not features.shape[1]:
        index, shape = places[0].features, tuple(features.shape)
        raise ValueError(f"weights[{index}]: got shape {shape}, expected (n·C, C, 1, 1) with C not 0")
    channels = features.shape[1]
    for branch, place in zip(branches, places, strict=True):
        rows, columns = (branch.queries + branch.keys) * channels, maps[branch.map].shape[1]
        expected = {}
        if place.projection is not None:
            expected[place.projection] = (channels, columns)
            columns = channels
        expected |= {place.hidden: (rows, columns), place.features: (rows, channels)}
        if place.values is not None:
            expected[place.values] = (branch.keys * channels, columns)
        for i, shape in expected.items():
            _check_layer(i, shape, lists, maps[0])


def _entries(name: str, entries: Any, kind: type[Branch] | type[Pair]) -> Sequence[Any]:
    if not isinstance(entries, (list, tuple)):
        raise TypeError(f"{name}: got {type(entries).__name__}, expected a list")
    for i, entry in enumerate(entries):
        numbers = isinstance(entry, (list, tuple)) and all(isinstance(n, int) for n in entry)
        if not numbers or len(entry) != len(kind._fields):
            raise TypeError(f"{name}[{i}]: got {entry!r}, expected a {kind.__name__} of {', '.join(kind._fields)}")
    return entries


def _check_branches(branches: Sequence[Branch], maps: int) -> None:
    for i, branch in enumerate(branches):
        if not 0 <= branch.map < maps:
            raise ValueError(f"branches[{i}]: got map {branch.map}, expected the index of one of {maps} maps")
        if branch.queries < 0 or branch.keys < 0:
            raise ValueError(f"branches[{i}]: got {branch}, expected numbers of blocks that are not negative")
    read = [branch.map for branch in branches]
    for i in range(maps):
        if i not in read:
            raise ValueError(f"branches: got none that reads maps[{i}], expected each map to be read")


def _check_pairs(pairs: Sequence[Pair], branches: Sequence[Branch]) -> None:
    if not pairs:
        raise ValueError("pairs: got none, expected at least one")
    # In lists: the compiler of torch 2.11 takes sets of symbolic numbers for empty ones.
    blocks = {
        "query": [(i, block) for i, branch in enumerate(branches) for block in range(branch.queries)],
        "key": [(i, block) for i, branch in enumerate(branches) for block in range(branch.keys)],
    }
    used = {
        "query": [(pair.target, pair.query) for pair in pairs],
        "key": [(pair.source, pair.key) for pair in pairs],
    }
    for kind, taken in used.items():
        for i, (owner, block) in enumerate(taken):
            if (owner, block) not in blocks[kind]:
                raise ValueError(f"pairs[{i}]: got {kind} {block} of branches[{owner}], expected one that it has")
        for owner, block in blocks[kind]:
            if (owner, block) not in taken:
                raise ValueError(f"pairs: got none for {kind} {block} of branches[{owner}], expected each to take part")


def _check_layer(i: int, shape: tuple[int, int], lists: dict[str, Sequence[Tensor]], first: Tensor) -> None:
    for name, tensors in lists.items():
        where = f"{name}[{i}]"
        if name != "weights":
            check_vector(where, tensors[i], shape[0])
            check_kind(where, tensors[i], first, torch.float32)
        else:
            if tuple(tensors[i].shape) != (*shape, 1, 1):
                raise ValueError(f"{where}: got shape {tuple(tensors[i].shape)}, expected {(*shape, 1, 1)}")
            check_kind(where, tensors[i], first)
