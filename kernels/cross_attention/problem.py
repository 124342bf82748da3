"""The arguments of a call, with its maps stacked by shape."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from seqca.ops.shared.branches import BranchLayers, branches_of, layers_of, pairs_of
from seqca.pairs import Pair

from .stacks import Stack


class Problem:
    """Maps, layers, branches and pairs of a call."""

    def __init__(
        self,
        maps: Sequence[Tensor],
        weights: Sequence[Tensor],
        scales: Sequence[Tensor],
        shifts: Sequence[Tensor],
        branches: Sequence[int],
        pairs: Sequence[int],
    ) -> None:
        self.maps = maps
        self.weights = [x.flatten(1).contiguous() for x in weights]
        self.scales, self.shifts = _alike(scales), _alike(shifts)
        self.starts = [0, *accumulate(map(len, weights))]
        """The first row of each layer among those of all."""
        self.branches, self.pairs = branches_of(branches), pairs_of(pairs)
        self.layers: list[BranchLayers] = layers_of(self.branches)
        self.dtype = maps[0].dtype
        self.channels = weights[self.layers[0].features].shape[1]
        shapes: dict[torch.Size, list[int]] = {}
        for i, x in enumerate(maps):
            shapes.setdefault(x.shape, []).append(i)
        self.stacks = [Stack([maps[i] for i in which]) for which in shapes.values()]
        self.place = {i: (stack, place) for stack, which in enumerate(shapes.values()) for place, i in enumerate(which)}

    def pairs_by_query(self, target: int) -> list[tuple[int, int, Pair]]:
        """Block of queries, place among the pairs of the target, and pair, in the order of the blocks."""
        own = [pair for pair in self.pairs if pair.target == target]
        return sorted((pair.query, place, pair) for place, pair in enumerate(own))

    def targets(self) -> list[int]:
        """The branches that have queries."""
        return [i for i, branch in enumerate(self.branches) if branch.queries]

    def sources(self) -> list[int]:
        """The branches that have keys."""
        return [i for i, branch in enumerate(self.branches) if branch.keys]

    def stacked(self, by_map: Sequence[Tensor]) -> list[Tensor]:
        """Tensors by map as one for each stack."""
        parts: list[list[Tensor]] = [[] for _ in self.stacks]
        for i, x in enumerate(by_map):
            parts[self.place[i][0]].append(x)
        return [torch.stack(x) for x in parts]


def _alike(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Vectors that a launch can take together: of one dtype, without gaps."""
    dtype = vectors[0].dtype if all(x.dtype == vectors[0].dtype for x in vectors) else torch.float32
    return [x.to(dtype).contiguous() for x in vectors]
