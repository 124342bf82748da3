"""Branches of one shape, which share launches, with their layers side by side."""

from collections.abc import Mapping
from functools import cached_property
from math import prod
from typing import Any

import torch
import triton
from torch import Tensor

from seqca.pairs import Pair

from ..launch import launch
from ..map_tables import MAX_ENTRIES
from .forward_sums import cross_attention_forward_sources
from .problem import Problem
from .stacks import MapMoments, padded, precision, split, tile_sizes

_MAX_ROWS = 48
"""Rows at most of a table that a launch takes as arguments, of which CUDA promises 4 KB."""


class BranchGroup:
    """Branches alike in shape and layers, of maps that are all different.

    Args:
        problem: the call.
        members: the branches, by their index in the call.
        again: whether branches of other groups before it read the same maps.
    """

    def __init__(self, problem: Problem, members: list[int], again: bool) -> None:
        self.problem, self.members, self.again = problem, members, again
        first = problem.branches[members[0]]
        self.queries, self.keys, self.projected = first.queries, first.keys, first.projected
        self.features, self.blocks = self.queries + self.keys, self.queries + 2 * self.keys
        """Blocks of C channels of a branch: of its second layers, and of those that read maps."""
        self.size = len(members)
        self.stack = problem.stacks[problem.place[first.map][0]]
        self.places = [problem.place[problem.branches[i].map][1] for i in members]
        self.layers = [problem.layers[i] for i in members]
        self.channels, self.padded = problem.channels, padded(problem.channels)
        self.tile_sizes = tile_sizes(self.padded, problem.dtype)

    def moments_of(self, stack: MapMoments) -> MapMoments:
        """Moments of the maps of the branches, from those of the maps of the stack."""
        x = stack.values
        if self.places == list(range(len(x))):
            return stack
        return MapMoments(torch.stack([x[i] for i in self.places]), stack.tokens)

    @cached_property
    def layer_table(self) -> tuple[tuple[Any, ...], ...]:
        """A row for each layer of the branches: weight, γ, β, and its first row among those of all layers."""
        p = self.problem
        return tuple((p.weights[i], p.scales[i], p.shifts[i], p.starts[i]) for i in self.layer_order)

    @property
    def layer_order(self) -> list[int]:
        """The layers of the branches, by their index in the call."""
        return [i for layers in self.layers for i in sorted(i for i in layers if i is not None)]

    @cached_property
    def pairs(self) -> list[tuple[int, int, int, Pair]]:
        """All pairs in order: branch of the group, block of queries, place among the pairs of the branch, and pair."""
        return [(i, *pair) for i, member in enumerate(self.members) for pair in self.problem.pairs_by_query(member)]

    @property
    def pair_table(self) -> tuple[tuple[int, ...], ...]:
        """A row for each pair: branch, block of queries, place, block of keys."""
        return tuple((i, query, place, pair.key) for i, query, place, pair in self.pairs)

    @property
    def table(self) -> tuple[tuple[int], ...]:
        """A row for each branch: the place of its map in the stack."""
        return tuple((i,) for i in self.places)

    def of_sources(self, states: Mapping[int, Tensor]) -> tuple[tuple[Tensor], ...]:
        """A row for each pair: the states of its source."""
        return tuple((states[pair.source],) for *_, pair in self.pairs)

    def of_blocks(self, states: Mapping[tuple[int, int], tuple[Tensor, int]]) -> tuple[tuple[Tensor, int], ...]:
        """A row for each block of keys, of what is given by branch of the call and block."""
        return tuple(states[member, key] for member in self.members for key in range(self.keys))

    def gradient_table(self, grads: Mapping[int, Tensor]) -> tuple[tuple[Any, ...], ...]:
        """A row for each branch: the gradient of what its queries attend to, and strides."""
        return tuple((grads[i], *grads[i].stride()) for i in self.members)

    @property
    def pairs_of_blocks(self) -> tuple[tuple[int, int], ...]:
        """A row for each block of queries: the first of its pairs, and how many it has."""
        own = [(i, query) for i, query, *_ in self.pairs]
        order = [(i, query) for i in range(self.size) for query in range(self.queries)]
        return tuple((own.index(block), own.count(block)) for block in order)

    def new_outputs(self) -> dict[int, Tensor]:
        """Memory for what the queries attend to, (B, pairs · C, H, W), by branch of the call."""
        x = self.stack
        counts = [(member, len(self.problem.pairs_by_query(member))) for member in self.members]
        return {i: x.rows.new_empty(x.images, n * self.channels, x.height, x.width) for i, n in counts}

    def output_table(self, outputs: Mapping[int, Tensor]) -> tuple[tuple[Tensor, int], ...]:
        """A row for each pair: the output of its target, and channels of that."""
        own = [outputs[self.members[i]] for i, *_ in self.pairs]
        return tuple((x, x.shape[1]) for x in own)

    def summed_states(self, partials: Tensor) -> dict[int, Tensor]:
        """States (keys, B, C + 1, C) by branch of the call, of the parts of each image."""
        parts, *size = partials.shape[2:]
        states = [self.new_sums(self.keys, self.stack.images, *size) for _ in self.members]
        grid = (triton.cdiv(prod(size), 256), self.keys * self.stack.images, self.size)
        self.start(
            cross_attention_forward_sources, grid, warps=4, partials=partials, states=tuple((x,) for x in states),
            parts=parts, SIZE=prod(size), BLOCK=256,
        )  # fmt: skip
        return dict(zip(self.members, states, strict=True))

    def arguments(self, *names: str) -> dict[str, Any]:
        """Arguments that kernels have in common, those of these names."""
        b = self.tile_sizes
        known = {
            "tokens": self.stack.tokens,
            "area": self.stack.area,
            "width": self.stack.width,
            "images": self.stack.images,
            "CHANNELS": self.channels,
            "C": self.padded,
            "K": self.stack.padded,
            "BLOCKS": self.blocks,
            "FEATURES": self.features,
            "KEYS": self.keys,
            "QUERIES": self.queries,
            "layers": self.layer_table,
            "LAYERS": len(self.layer_table) // self.size,
            "PROJECTED": self.projected,
            "READ": self.stack.channels,
            "BLOCK_N": b.tokens,
            "BLOCK_C": b.channels,
            "BLOCK_K": b.depth,
            "PRECISION": precision(),
        }
        return {name: known[name] for name in names}

    def start(self, kernel: Any, grid: tuple[int, ...], warps: int = 0, stages: int = 3, **own: Any) -> None:
        """Launch with arguments of its own and those that it has in common with others."""
        names = [name for name in kernel.arg_names if name not in own]
        options = {"num_warps": warps or self.tile_sizes.warps, "num_stages": stages}
        launch(kernel, grid, self.stack.rows.device, {**own, **self.arguments(*names)}, **options)

    def new_sums(self, *size: int) -> Tensor:
        """Memory for sums, in float32."""
        return self.stack.rows.new_empty(size, dtype=torch.float32)

    def tiles(self, channels: int) -> int:
        """Tiles into which so many columns are divided."""
        return triton.cdiv(channels, self.tile_sizes.channels)

    @property
    def fused(self) -> bool:
        """Whether passes keep in registers what is between maps and sums.

        A tile needs all channels of a block and a column more. In float32 products of so many channels have no tensor
        cores, and take all registers by themselves.
        """
        return self.channels < 64 and self.problem.dtype != torch.float32

    @property
    def token_tiles(self) -> int:
        """Tiles of the tokens of all images together."""
        return triton.cdiv(self.stack.tokens, self.tile_sizes.tokens)

    @property
    def image_tiles(self) -> int:
        """Tiles of the tokens of all images, each with tiles of its own."""
        return self.stack.images * triton.cdiv(self.stack.area, self.tile_sizes.tokens)

    @property
    def feature_grid(self) -> tuple[int, int, int]:
        """A program for each tile of every block of queries or keys."""
        return self.token_tiles * self.tiles(self.padded), self.features, self.size

    def state_parts(self, states: int) -> tuple[int, int, int]:
        """Tiles of a state, of which there are so many for each image; parts of an image; tokens of a part."""
        tiles = self.tiles(self.channels + 1) * self.tiles(self.channels)
        parts, span = split(self.stack.area, self.tile_sizes.tokens, tiles * states * self.stack.images)
        return tiles, parts, span


def branch_groups(problem: Problem) -> list[BranchGroup]:
    """The branches of a call; those that write the gradient of a map first stand before those that add to it.

    The call does not hold its groups: in a circle its tensors, and with them the graph that made them, would live until
    garbage is collected.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    met: dict[int, int] = {}
    for i, branch in enumerate(problem.branches):
        turn = met[branch.map] = met.get(branch.map, -1) + 1
        alike.setdefault((problem.place[branch.map][0], branch._replace(map=0), turn), []).append(i)
    groups = []
    for (*_, turn), which in sorted(alike.items(), key=lambda item: item[0][-1]):
        rows = max(max(len(problem.pairs_by_query(i)), problem.branches[i].keys) for i in which)
        step = max(1, min(MAX_ENTRIES, _MAX_ROWS // rows))
        groups += [BranchGroup(problem, which[i : i + step], turn > 0) for i in range(0, len(which), step)]
    return groups
