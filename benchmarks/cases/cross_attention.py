"""Cases of `cross_attention`: the exchange between tasks and from coarser scales, against tasks and tokens.

The baseline computes what the published network does: every pair with all its layers, one after the other.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from seqca.configuration import NETWORK
from seqca.ops import Branch, Pair
from seqca.ops.shared.branches import layers_of
from seqca.ops.shared.operator import Call
from seqca.pairs import between_tasks, from_coarser

from ..harness.case import DTYPES, Cost
from ..harness.operator_case import Arguments, OperatorCase, normal
from .published.batch_norm import batch_norm
from .shapes import CHANNELS, CaseSet, Dataset


class Map(NamedTuple):
    """Of one image."""

    channels: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Pixels."""
        return self.height * self.width


def cases(wanted: CaseSet) -> Iterator[OperatorCase]:
    """Exchanges of the network; from coarser scales; then of more tasks, and of more tokens."""
    data = wanted.datasets[0]
    for each, scale, dtype, direction in product(wanted.datasets, wanted.scales, wanted.dtypes, wanted.directions):
        tasks, size = len(each.tasks), network_maps(each)[scale]
        shape = f"{each.name}-scale{scale}-tasks{tasks}"
        yield _exchange(shape, [size] * tasks, each.batch, dtype, direction, wanted)
    for scale in wanted.scales:
        if scale < len(CHANNELS) - 1:
            yield _across_scales(data, scale, wanted)
    for scale in wanted.task_sweep_scales:
        for tasks in (*wanted.task_sweep, wanted.task_sweep[-1] + 1):
            shape = f"tasks/{tasks}" if scale == 0 else f"tasks-scale{scale}/{tasks}"
            maps = [network_maps(data)[scale]] * tasks
            yield _exchange(shape, maps, data.batch, wanted.sweep_dtype, "both", wanted, sweep=True)
    for tokens in wanted.token_sweep:
        maps = [Map(CHANNELS[0], 1, tokens)] * 2
        yield _exchange(f"tokens/{tokens}", maps, wanted.sweep_leading, wanted.sweep_dtype, "both", wanted, sweep=True)


def network_maps(data: Dataset) -> list[Map]:
    """Of a task, by scale."""
    return [
        Map(c, data.height // stride, data.width // stride) for c, stride in zip(CHANNELS, NETWORK.strides, strict=True)
    ]


def _exchange(
    shape: str, maps: Sequence[Map], batch: int, dtype: str, direction: str, wanted: CaseSet, sweep: bool = False
) -> OperatorCase:
    return case(shape, maps, *between_tasks(len(maps)), maps[0].channels, batch, dtype, direction, wanted, sweep)


def _across_scales(data: Dataset, scale: int, wanted: CaseSet) -> OperatorCase:
    """Every task's map at a scale gathers from all its coarser ones."""
    own = network_maps(data)[scale:]
    branches, pairs = from_coarser(len(data.tasks), len(own) - 1)
    shape = f"{data.name}-scale{scale}-from-coarser"
    return case(
        shape, own * len(data.tasks), branches, pairs, CHANNELS[scale], data.batch, wanted.dtypes[0], "both", wanted
    )


def case(
    shape: str,
    maps: Sequence[Map],
    branches: Sequence[Branch],
    pairs: Sequence[Pair],
    channels: int,
    batch: int,
    dtype: str,
    direction: str,
    wanted: CaseSet,
    sweep: bool = False,
) -> OperatorCase:
    """Some pairs of maps with C channels of attention, every branch with layers of its own."""
    rows = layer_sizes(maps, branches, channels)

    def draw(generator: Generator) -> Arguments:
        def vectors(kinds: Sequence[Tensor]) -> list[Tensor]:
            return [kind.to(generator.device, DTYPES[dtype]) for kind in kinds]

        shifts = [torch.zeros(n) for n, _ in rows]
        for place in layers_of(branches):
            for layer in (place.hidden, place.values):
                if layer is not None:  # positive or negative by far: near zero a ReLU's gradient is chance
                    shifts[layer] = torch.tensor([8.0, -8.0]).repeat(rows[layer][0])[: rows[layer][0]]
        arguments = {
            "maps": [normal((batch, *x), dtype, generator) for x in maps],
            "weights": [normal((n, columns, 1, 1), dtype, generator) / columns**0.5 for n, columns in rows],
            "scales": vectors([torch.ones(n) for n, _ in rows]),
            "shifts": vectors(shifts),
            "branches": list(branches),
            "pairs": list(pairs),
        }
        gradients = []
        for i, branch in enumerate(branches):
            if branch.queries:
                count, x = sum(pair.target == i for pair in pairs), maps[branch.map]
                gradients.append(normal((batch, count * channels, x.height, x.width), dtype, generator))
        return Arguments(arguments, ("maps", "weights", "scales", "shifts"), gradients)

    tokens = batch * sum(maps[branch.map].tokens for branch in branches)
    return OperatorCase(
        operator="cross_attention",
        shape=shape,
        dtype=dtype,
        direction=direction,
        device=wanted.device,
        sizes={"tokens": maps[0].tokens, "channels": channels, "tasks": len(maps), "pairs": len(pairs)},
        draw=draw,
        least_cost=cost(maps, branches, pairs, channels, batch, DTYPES[dtype].itemsize, direction),
        call=Call(wanted.device, DTYPES[dtype], max(columns for _, columns in rows), tokens),
        modes=wanted.modes(sweep),
        published=published_sequence,
    )


def layer_sizes(maps: Sequence[Map], branches: Sequence[Branch], channels: int) -> list[tuple[int, int]]:
    """Rows and columns of every layer."""
    sizes = []
    for branch in branches:
        inputs, blocks = maps[branch.map].channels, branch.queries + branch.keys
        if branch.projected:
            sizes.append((channels, inputs))
            inputs = channels
        sizes += [(blocks * channels, inputs), (blocks * channels, channels)]
        if branch.keys:
            sizes.append((branch.keys * channels, inputs))
    return sizes


def cost(
    maps: Sequence[Map],
    branches: Sequence[Branch],
    pairs: Sequence[Pair],
    channels: int,
    batch: int,
    itemsize: int,
    direction: str,
) -> Cost:
    """Maps are read and what they gather written once; backward also reads the gradients and writes those of the maps.

    Backward needs queries, keys and values again, and two products for each of those of the forward pass. A projection
    costs nothing.
    """
    sizes, layers, attention, features = layer_sizes(maps, branches, channels), 0, 0, 0
    for branch, place in zip(branches, layers_of(branches), strict=True):
        tokens = batch * maps[branch.map].tokens
        rows = sum(sizes[i][0] for i in (place.hidden, place.values) if i is not None)
        layers += 2 * tokens * (rows * maps[branch.map].channels + sizes[place.features][0] * channels)
        features += tokens * sizes[place.features][0]
        attention += 2 * tokens * channels * channels * branch.keys
    gathered = 0
    for pair in pairs:
        tokens = batch * maps[branches[pair.target].map].tokens
        attention += 2 * tokens * channels * channels
        gathered += tokens * channels
    elements = sum(batch * x.tokens * x.channels for x in maps)
    forward = Cost((elements + gathered) * itemsize, layers + attention, 2 * features)
    backward = Cost((2 * elements + gathered) * itemsize, 3 * layers + 2 * attention, 3 * features)
    return Cost.of(direction, forward, backward)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, C, H, W) and twice (B, C, H', W') → (B, C, H, W)."""
    query, key, value = (x.flatten(2) for x in (q, k, v))
    state, normaliser = value @ key.mT, key.sum(2, keepdim=True)
    return ((state @ query) / (normaliser.mT @ query).clamp(min=1e-12)).view(q.shape)


def published_sequence(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    shifts: Sequence[Tensor],
    branches: Sequence[Branch],
    pairs: Sequence[Pair],
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The sequence of the published network: all layers of a pair, then its attention, pair after pair."""
    branches, pairs = [Branch(*branch) for branch in branches], [Pair(*pair) for pair in pairs]
    channels = weights[layers_of(branches)[0].features].shape[1]
    moments: list[dict[int, list[Tensor]]] = [{} for _ in weights]

    def layer(x: Tensor, i: int, block: int = 0) -> Tensor:
        rows = slice(block * channels, (block + 1) * channels)
        y = F.conv2d(x, weights[i][rows])
        normalised, *moments[i][block] = batch_norm(y, scales[i][rows], shifts[i][rows])
        return normalised

    places, attended = layers_of(branches), []
    sources = [
        maps[branch.map] if place.projection is None else layer(maps[branch.map], place.projection)
        for branch, place in zip(branches, places, strict=True)
    ]

    def features(branch: int, block: int) -> Tensor:
        place = places[branch]
        u = layer(F.relu(layer(sources[branch], place.hidden, block)), place.features, block)
        return F.softplus(u, threshold=40)  # see seqca.reference.softplus

    for i, branch in enumerate(branches):
        gathered = []
        for pair in pairs:
            if pair.target == i:
                values = places[pair.source].values
                assert values is not None
                q = features(i, pair.query)
                k = features(pair.source, branches[pair.source].queries + pair.key)
                v = F.relu(layer(sources[pair.source], values, pair.key))
                gathered.append(attend(q, k, v))
        if branch.queries:
            attended.append(torch.cat(gathered, 1))
    means, variances = (
        [torch.cat([of_block[block][which] for block in sorted(of_block)]) for of_block in moments] for which in (0, 1)
    )
    return attended, means, variances
