"""Maps of several resolutions, concatenated at the finest one, and the weight of a 1×1 convolution that reads them."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor


class Concatenation(NamedTuple):
    """Which maps form a level, and where their columns of the weight are."""

    sizes: tuple[tuple[int, int], ...]
    """Height and width of each level, the finest first."""
    members: tuple[tuple[int, ...], ...]
    """Indices of the maps of each level."""
    columns: tuple[tuple[slice, ...], ...]
    """By map: its columns of the weight, several where the map stands several times in the concatenation."""
    channels: tuple[int, ...]
    """By map."""

    @classmethod
    def of(cls, maps: Sequence[Tensor], order: Sequence[int]) -> "Concatenation":
        """That of maps[order[0]], maps[order[1]], …, where order[0] is a map of the finest size."""
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        levels: dict[tuple[int, int], list[int]] = {sizes[order[0]]: []}
        for i, size in enumerate(sizes):
            levels.setdefault(size, []).append(i)
        columns: list[list[slice]] = [[] for _ in maps]
        start = 0
        for i in order:
            columns[i].append(slice(start, start + maps[i].shape[1]))
            start += maps[i].shape[1]
        return cls(
            tuple(levels),
            tuple(map(tuple, levels.values())),
            tuple(map(tuple, columns)),
            tuple(x.shape[1] for x in maps),
        )

    def level_channels(self) -> list[int]:
        """Channels of each level, its maps side by side."""
        return [sum(self.channels[i] for i in level) for level in self.members]

    def by_level(self, joined: Tensor) -> list[Tensor]:
        """What all levels have one below the other, (Σ c_i, …), by level."""
        return list(joined.split(self.level_channels()))

    def merged(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight (C, Σ C_j, 1, 1) level below level, (Σ c_i, C): columns that read the same map are summed."""
        rows = weight.flatten(1).to(dtype).T
        blocks = []
        for i in chain(*self.members):
            first, *others = (rows[columns] for columns in self.columns[i])
            blocks.append(sum(others, first))
        return torch.cat(blocks)

    def unmerged(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Of what `merged` returned, the gradient as that of the weight: one copy for each of the columns."""
        members = list(chain(*self.members))
        blocks = dict(zip(members, gradient.split([self.channels[i] for i in members]), strict=True))
        order = sorted((columns.start, i) for i in members for columns in self.columns[i])
        result = weight.new_empty(weight.shape)
        result[..., 0, 0] = torch.cat([blocks[i] for _, i in order]).T
        return result
