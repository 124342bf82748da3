"""Branches of one shape, which share launches, with their layers side by side."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from seqca.ops.shared.branches import BranchLayers, branches_of, layers_of, pairs_of
from seqca.pairs import Pair

from ..launch import launch
from ..map_tables import MAX_ENTRIES
from .forward import cross_attention_forward_moments, cross_attention_forward_rows

_MAX_ROWS = 48
"""Of a table that a launch takes as arguments, of which CUDA promises 4 KB."""

PROGRAMS = 528
"""Into which sums over tokens are split where there are enough of them: four for each multiprocessor of an H200."""


class Blocks(NamedTuple):
    """Launch parameters: tokens and channels of a tile, channels that a product takes at a time, warps."""

    tokens: int
    channels: int
    depth: int
    warps: int


def blocks(padded: int, dtype: torch.dtype) -> Blocks:
    """By channels and dtype. Chosen by registers and shared memory (docs/resources.md), not by tuning."""
    if padded <= 64:
        channels = max(16, triton.next_power_of_2(padded))
    else:
        # The larger tile, unless a quarter of it or more would be padding.
        channels = 64 if -(-padded // 64) * 64 * 3 <= 4 * padded else 32
    if dtype == torch.float32:
        return Blocks(32, min(32, channels), 16, 4)
    # In float16 operands are scaled, which takes registers.
    warps = 8 if dtype == torch.float16 and padded > 64 else 4
    return Blocks(64, channels, channels if padded <= 64 else 32, warps)


def padded(channels: int) -> int:
    """Columns of a matrix of so many channels: rows begin at multiples of 16 bytes."""
    return -(-channels // 8) * 8


def precision() -> str:
    """Of products of float32."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


class Stack:
    """Maps of one shape as matrices (maps, tokens, channels padded)."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        first = maps[0]
        self.images, self.channels, self.height, self.width = first.shape
        self.area = self.height * self.width
        self.tokens = self.images * self.area
        self.padded = padded(self.channels)
        self.rows = first.new_empty(len(maps), self.tokens, self.padded)
        self.blocks = b = blocks(self.padded, first.dtype)
        for start in range(0, len(maps), MAX_ENTRIES):
            part = maps[start : start + MAX_ENTRIES]
            arguments = {
                "maps": tuple((x, *x.stride()) for x in part),
                "rows": self.rows[start:],
                "tokens": self.tokens,
                "channels": self.channels,
                "height": self.height,
                "width": self.width,
                "C": self.padded,
                "BLOCK_N": b.tokens,
                "BLOCK_C": b.channels,
            }
            grid = (triton.cdiv(self.tokens, b.tokens), triton.cdiv(self.padded, b.channels), len(part))
            launch(cross_attention_forward_rows, grid, first.device, arguments, num_warps=b.warps)

    def span(self, programs: int) -> tuple[int, int]:
        """Parts of the tokens where there are so many programs for each of them, and tokens of a part."""
        return split(self.tokens, self.blocks.tokens, programs)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means (maps, C) and covariances (maps, C, C), biased, in float64."""
        b, count, c = self.blocks, len(self.rows), self.padded
        some = self.rows[:, : 4 * b.tokens].float()
        variance, mean = torch.var_mean(some, 1, correction=0)
        centres = exact_centres(mean, variance, self.rows.dtype)
        tiles = triton.cdiv(c, b.channels) ** 2
        parts, span = self.span(tiles * count)
        products, sums = centres.new_empty(parts, count, c, c), centres.new_empty(parts, count, c)
        arguments = {
            "rows": self.rows,
            "centres": centres,
            "products": products,
            "sums": sums,
            "tokens": self.tokens,
            "span": span,
            "C": c,
            "BLOCK_N": b.tokens,
            "BLOCK_C": b.channels,
            "PRECISION": precision(),
        }
        launch(cross_attention_forward_moments, (parts, tiles, count), centres.device, arguments, num_warps=b.warps)
        own = slice(self.channels)
        away = sums[..., own].sum(0, dtype=torch.float64) / self.tokens
        mean = away + centres[:, own]
        covariance = products[..., own, own].sum(0, dtype=torch.float64) / self.tokens
        return mean, torch.baddbmm(covariance, away[:, :, None], away[:, None], alpha=-1)


def exact_centres(means: Tensor, variances: Tensor, dtype: torch.dtype) -> Tensor:
    """What is taken from maps before they are multiplied, so that large means do not cancel, in float32.

    In half precision x less the mean would be rounded, and all x between two powers of two alike: that biases products.
    x less a rounded number of about its size is exact (Sterbenz 1974), which is most x where the mean is large beside
    the deviation; elsewhere nothing is taken, as nothing cancels.
    """
    if dtype == torch.float32:
        return means.float()
    return torch.where(means.square() > 16 * variances, means, 0).to(dtype).float()


def split(tokens: int, block: int, programs: int) -> tuple[int, int]:
    """Parts, and tokens of each, of a sum that `programs` programs take for each part."""
    most = triton.cdiv(tokens, block)
    span = triton.cdiv(most, max(1, min(most, PROGRAMS // programs))) * block
    return triton.cdiv(tokens, span), span


class ByKind(NamedTuple):
    """What is by row of the layers of a group, (branches, rows)."""

    projection: Tensor
    """Without columns where there is none."""
    first: Tensor
    """Of hidden layers, then values."""
    second: Tensor
    """Of features."""


class Group:
    """Branches alike in shape and layers, of maps that are all different."""

    def __init__(self, call: "Call", members: list[int], again: bool) -> None:
        self.call, self.members = call, members
        self.again = again
        """Whether branches of other groups before it read the same maps."""
        first = call.branches[members[0]]
        self.queries, self.keys, self.projected = first.queries, first.keys, first.projected
        self.features, self.blocks = self.queries + self.keys, self.queries + 2 * self.keys
        self.size = len(members)
        self.stack = call.stacks[call.place[first.map][0]]
        self.places = [call.place[call.branches[i].map][1] for i in members]
        self.layers = [call.layers[i] for i in members]
        self.channels, self.padded = call.channels, padded(call.channels)
        self.launch_blocks = blocks(self.padded, call.dtype)

    def of_maps(self, x: Tensor) -> Tensor:
        """By branch, of what is by map of the stack."""
        return x if self.places == list(range(len(x))) else torch.stack([x[i] for i in self.places])

    def indices(self, *names: str) -> list[int]:
        """Of the layers of those names, branch after branch."""
        found = [getattr(layers, name) for layers in self.layers for name in names]
        return [i for i in found if i is not None]

    def weights(self, *names: str) -> Tensor:
        """Of each branch those of layers of these names below each other, (branches, rows, columns)."""
        joined = torch.cat([self.call.weights[i].flatten(1) for i in self.indices(*names)])
        return joined.unflatten(0, (self.size, -1))

    def vectors(self, *lists: Sequence[Tensor]) -> list["ByKind"]:
        """From lists by layer, in float64."""
        which = self.indices("projection", "hidden", "values", "features")
        joined = torch.cat([x[i] for x in lists for i in which]).double().unflatten(0, (len(lists), self.size, -1))
        blocks = [int(self.projected), self.blocks, self.features]
        return [ByKind(*x.split([n * self.channels for n in blocks], 1)) for x in joined]

    @cached_property
    def norms(self) -> list["ByKind"]:
        """γ and β."""
        return self.vectors(self.call.scales, self.call.shifts)

    def parted(self, x: Tensor, tensors: list[Tensor], *names: str) -> None:
        """From (branches, rows, …) of layers of these names into their places, in memory of their own."""
        which = self.indices(*names)
        shapes = [tensors[i].shape for i in which]
        flat = x.to(tensors[which[0]].dtype).flatten()
        parts = torch.split_with_sizes_copy(flat, [shape.numel() for shape in shapes])
        for i, shape, part in zip(which, shapes, parts, strict=True):
            tensors[i] = part.view(shape)

    def padded_rows(self, x: Tensor) -> Tensor:
        """(…, blocks·C) with the blocks padded, in float32."""
        return F.pad(x.unflatten(-1, (-1, self.channels)), (0, self.padded - self.channels)).flatten(-2).float()

    def padded_weight(self, x: Tensor, columns: int) -> Tensor:
        """(branches, blocks·C, C_in) with blocks and columns padded, in the dtype of the maps."""
        rows = x.unflatten(1, (-1, self.channels)).to(self.call.dtype)
        return F.pad(rows, (0, columns - x.shape[2], 0, self.padded - self.channels)).flatten(1, 2)

    @cached_property
    def second(self) -> Tensor:
        """W₂, padded, (branches, features·C, C)."""
        return self.padded_weight(self.weights("features"), self.padded)

    @cached_property
    def pairs(self) -> list[tuple[int, int, int, Pair]]:
        """Branch of the group, block of queries, place among the pairs of the branch, and pair, in that order."""
        return [(i, *pair) for i, member in enumerate(self.members) for pair in self.call.pairs_by_query(member)]

    @property
    def pair_table(self) -> tuple[tuple[int, ...], ...]:
        """Of the pairs, branch, block of queries, place, block of keys."""
        return tuple((i, query, place, pair.key) for i, query, place, pair in self.pairs)

    @property
    def table(self) -> tuple[tuple[int], ...]:
        """Of the branches, the places of their maps in the stack."""
        return tuple((i,) for i in self.places)

    def sizes(self, *names: str) -> dict[str, Any]:
        """Arguments of kernels."""
        b = self.launch_blocks
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
            "BLOCK_N": b.tokens,
            "BLOCK_C": b.channels,
            "BLOCK_K": b.depth,
            "PRECISION": precision(),
        }
        return {name: known[name] for name in names}

    def start(self, kernel: Any, grid: tuple[int, ...], warps: int = 0, **arguments: Any) -> None:
        """Launch with the given arguments and, of `sizes`, those that the kernel has beside them."""
        names = [name for name in kernel.arg_names if name not in arguments]
        options = {"num_warps": warps or self.launch_blocks.warps}
        launch(kernel, grid, self.stack.rows.device, {**arguments, **self.sizes(*names)}, **options)

    def tiles(self, channels: int) -> int:
        """Of columns."""
        return triton.cdiv(channels, self.launch_blocks.channels)

    @property
    def whole(self) -> bool:
        """Whether a tile holds all channels of a block."""
        return self.tiles(self.padded) == 1

    @property
    def token_tiles(self) -> int:
        """Of the tokens of all images together."""
        return triton.cdiv(self.stack.tokens, self.launch_blocks.tokens)

    @property
    def image_tiles(self) -> int:
        """Of the tokens of all images, each with tiles of its own."""
        return self.stack.images * triton.cdiv(self.stack.area, self.launch_blocks.tokens)


class Call:
    """The arguments of a call.

    Groups hold it, and it holds no group: in a circle its tensors, and with them the graph that made them, would live
    until garbage is collected.
    """

    def __init__(
        self,
        maps: Sequence[Tensor],
        weights: Sequence[Tensor],
        scales: Sequence[Tensor],
        shifts: Sequence[Tensor],
        branches: Sequence[int],
        pairs: Sequence[int],
    ) -> None:
        self.maps, self.weights, self.scales, self.shifts = maps, weights, scales, shifts
        self.branches, self.pairs = branches_of(branches), pairs_of(pairs)
        self.layers: list[BranchLayers] = layers_of(self.branches)
        self.dtype, self.device = maps[0].dtype, maps[0].device
        self.channels = weights[self.layers[0].features].shape[1]
        shapes: dict[torch.Size, list[int]] = {}
        for i, x in enumerate(maps):
            shapes.setdefault(x.shape, []).append(i)
        self.stacks = [Stack([maps[i] for i in which]) for which in shapes.values()]
        self.place = {i: (stack, place) for stack, which in enumerate(shapes.values()) for place, i in enumerate(which)}

    def groups(self) -> list[Group]:
        """Of its branches; those that write the gradient of a map first stand before those that add to it."""
        alike: dict[tuple[Any, ...], list[int]] = {}
        met: dict[int, int] = {}
        for i, branch in enumerate(self.branches):
            turn = met[branch.map] = met.get(branch.map, -1) + 1
            alike.setdefault((self.place[branch.map][0], branch._replace(map=0), turn), []).append(i)
        groups = []
        for (*_, turn), which in sorted(alike.items(), key=lambda item: item[0][-1]):
            rows = max(max(len(self.pairs_by_query(i)), self.branches[i].keys) for i in which)
            step = max(1, min(MAX_ENTRIES, _MAX_ROWS // rows))
            groups += [Group(self, which[i : i + step], turn > 0) for i in range(0, len(which), step)]
        return groups

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
        """What is by map, stack by stack."""
        parts: list[list[Tensor]] = [[] for _ in self.stacks]
        for i, x in enumerate(by_map):
            parts[self.place[i][0]].append(x)
        return [torch.stack(x) for x in parts]
