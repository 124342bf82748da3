"""How cost grows with tasks and scales: attention over tasks, then over scales, against joint attention over both.

Kim, Choi, Min, "Sequential Cross Attention Based Multi-task Learning", ICIP 2022, arXiv 2209.02518.

There are M·K maps, one for each of M tasks at each of K scales. Both schemes are made of the paper's cross attention
(queries and keys behind two layers, values behind one, weights of its own for every target map and source task,
shared by the source's scales; a source at a coarser scale is projected to the target's channels), all targets of a
scale in one call of `seqca.ops.cross_attention`, and a target gathers from sources as fine as itself or coarser:

- sequential: each map gathers from the other tasks at its scale; then each result from its own task's coarser
  results. M(M − 1)K + M·K(K − 1)/2 pairs.
- joint: each map gathers from every task at its scale and at every coarser one. M²·K(K + 1)/2 − M·K pairs.

Every map has then seen the same others. The two compute different functions, each checked against its own reference.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from seqca.configuration import NETWORK
from seqca.ops import Branch, Pair, cross_attention
from seqca.ops.shared.operator import OPERATORS, Call
from seqca.ops.verification.tolerance import Errors, errors

from ..harness.case import DTYPES, Cost, Provider, Providers, in_mode
from ..harness.operator_case import Arguments, OperatorCase, normal
from .shapes import CHANNELS, CaseSet

SEQUENTIAL, JOINT = "sequential", "joint"
Maps = list[list[Tensor]]
"""By task and scale, each (B, C_k, H_k, W_k)."""


class ConvNorm(NamedTuple):
    """1×1 convolution, and scale and shift of its batch norm."""

    weight: Tensor
    scale: Tensor
    shift: Tensor


class Target(NamedTuple):
    """A map and what it gathers from."""

    map: Tensor
    layers: list[ConvNorm]
    """Of the hidden queries, the queries, the hidden keys, the keys and the values."""
    sources: list[tuple[Tensor, list[ConvNorm]]]
    """Maps, each with its projection, if it has one."""


def cases(wanted: CaseSet) -> Iterator["SchemeCase"]:
    """More and more tasks at all scales, then more and more scales with four tasks."""
    for tasks in wanted.scheme_tasks:
        yield case(tasks, len(CHANNELS), wanted)
    for scales in wanted.scheme_scales:
        if scales < len(CHANNELS) or 4 not in wanted.scheme_tasks:
            yield case(4, scales, wanted)


def case(tasks: int, scales: int, wanted: CaseSet) -> "SchemeCase":
    """The two schemes on the maps of one batch."""
    dtype, batch = wanted.sweep_dtype, wanted.sweep_leading
    tokens = NETWORK.tokens(*wanted.scheme_sides)[:scales]
    height, width = wanted.scheme_sides
    sizes = [(height // stride, width // stride) for stride in NETWORK.strides[:scales]]
    channels = CHANNELS[:scales]

    def draw(generator: Generator) -> Arguments:
        def maps() -> Maps:
            shapes = [(batch, c, *size) for size, c in zip(sizes, channels, strict=True)]
            return [[normal(shape, dtype, generator) for shape in shapes] for _ in range(tasks)]

        def layer(rows: int, columns: int, rectified: bool) -> ConvNorm:
            # Positive or negative by far where a ReLU follows: near zero its gradient is chance.
            shift = torch.tensor([8.0, -8.0] if rectified else [0.0], device=generator.device).repeat(rows)[:rows]
            weight = normal((rows, columns, 1, 1), dtype, generator) / columns**0.5
            return ConvNorm(weight, torch.ones_like(shift, dtype=DTYPES[dtype]), shift.to(DTYPES[dtype]))

        rectified = (True, False, True, False, True)
        layers = [[[[layer(c, c, r) for r in rectified] for _ in range(tasks)] for c in channels] for _ in range(tasks)]
        projections = [
            [
                [[layer(c, coarser, False) for coarser in channels[k + 1 :]] for _ in range(tasks)]
                for k, c in enumerate(channels)
            ]
            for _ in range(tasks)
        ]
        values = {"maps": maps(), "layers": layers, "projections": projections}
        return Arguments(values, tuple(values), [tensor for task in maps() for tensor in task])

    # Forward: maps in, maps out. Backward: maps and gradients in, gradients out.
    moved = 5 * batch * tasks * sum(n * c for n, c in zip(tokens, channels, strict=True)) * DTYPES[dtype].itemsize
    operations = {scheme: count_operations(scheme, tasks, tokens, channels) for scheme in (SEQUENTIAL, JOINT)}
    return SchemeCase(
        operator="attention_schemes",
        shape=f"tasks{tasks}-scales{scales}",
        dtype=dtype,
        direction="both",
        device=wanted.device,
        sizes={"tasks": tasks, "scales": scales, "tokens": tokens[0]},
        draw=draw,
        least_cost=Cost(0, 0, 0),
        call=Call(wanted.device, DTYPES[dtype], channels[-1], batch * tokens[0]),
        costs={scheme: Cost(moved, 3 * batch * number, 0) for scheme, number in operations.items()},
    )


@dataclass(frozen=True)
class SchemeCase(OperatorCase):
    """Both schemes on the same maps, on the backends that users get."""

    costs: Mapping[str, Cost] = field(kw_only=True)
    """By scheme, forward and backward."""

    def cost(self, provider: Provider) -> Cost:
        """What a scheme cannot avoid."""
        return self.costs[provider.computes]

    @property
    def baseline(self) -> str:
        """The scheme of this network."""
        return SEQUENTIAL

    def providers(self) -> Providers:
        """The two schemes, as they are and captured."""
        both = Providers([], {})
        for name, scheme in ((SEQUENTIAL, sequential), (JOINT, joint)):
            for mode in self.modes:
                provider = Provider(in_mode(name, mode), scheme, "auto", mode, computes=name)
                both.add(provider, self.device, self.direction, self.modes)
        return both

    def reference_of(self, provider: Provider) -> Callable[..., Any]:
        """The scheme on the plain mathematics."""
        return provider.function

    def norms(self, actual: Tensor, exact: Tensor) -> Errors:
        """Those of the operator that the schemes are made of."""
        return errors(actual, exact, OPERATORS["cross_attention"].channel_axis)


def pairs(scheme: str, tasks: int, scales: int) -> int:
    """Ordered pairs of maps that a scheme relates."""
    if scheme == SEQUENTIAL:
        return tasks * (tasks - 1) * scales + tasks * scales * (scales - 1) // 2
    return tasks * tasks * scales * (scales + 1) // 2 - tasks * scales


def count_operations(scheme: str, tasks: int, tokens: tuple[int, ...], channels: tuple[int, ...]) -> int:
    """Multiplications and additions of the forward pass for one image, from the matrix products.

    With C channels, N queries and N' keys: 4C²N for queries, 6C²N' for keys and values, 2C²(N + N') for the attention,
    2C'CN' for the projection of a source with C' channels.
    """
    total = 0
    for k, (n, c) in enumerate(zip(tokens, channels, strict=True)):
        queries, level = 4 * c * c * n, 10 * c * c * n
        coarser = sum(2 * channels[j] * c * m + 8 * c * c * m + 2 * c * c * n for j, m in enumerate(tokens) if j > k)
        pair = queries + level + (coarser if scheme == JOINT else 0)
        total += tasks * ((tasks - 1) * pair + (queries + coarser if coarser else 0))
    return total


def sequential(maps: Maps, layers: Any, projections: Any) -> Maps:
    """Attention over tasks, then over scales."""
    tasks, scales = range(len(maps)), range(len(maps[0]))
    exchanged = [list(task) for task in maps]
    for k in scales:
        pairs = [(t, u) for t in tasks for u in tasks if t != u]
        gathered = _attend([Target(maps[t][k], layers[t][k][u], [(maps[u][k], [])]) for t, u in pairs])
        for (t, _), result in zip(pairs, gathered, strict=True):
            exchanged[t][k] = exchanged[t][k] + result
    outputs = [list(task) for task in exchanged]
    for k in scales[:-1]:
        targets = [
            Target(exchanged[t][k], layers[t][k][t], _projected(exchanged[t][k + 1 :], projections[t][k][t]))
            for t in tasks
        ]
        for t, result in zip(tasks, _attend(targets), strict=True):
            outputs[t][k] = outputs[t][k] + result
    return outputs


def joint(maps: Maps, layers: Any, projections: Any) -> Maps:
    """Attention over tasks and scales at once."""
    tasks, scales = range(len(maps)), range(len(maps[0]))
    outputs = [list(task) for task in maps]
    for k in scales:
        targets, owners = [], []
        for t in tasks:
            for u in tasks:
                sources = [] if t == u else [(maps[u][k], [])]
                sources += _projected(maps[u][k + 1 :], projections[t][k][u])
                if sources:
                    targets.append(Target(maps[t][k], layers[t][k][u], sources))
                    owners.append(t)
        for t, result in zip(owners, _attend(targets), strict=True):
            outputs[t][k] = outputs[t][k] + result
    return outputs


def _projected(maps: list[Tensor], projections: list[ConvNorm]) -> list[tuple[Tensor, list[ConvNorm]]]:
    return [(x, [projection]) for x, projection in zip(maps, projections, strict=True)]


def _attend(targets: list[Target]) -> list[Tensor]:
    """For each target the sum of what it gathers from its sources; one call for all."""
    maps: list[Tensor] = []
    layers: list[ConvNorm] = []
    branches: list[Branch] = []
    pairs: list[Pair] = []
    for target in targets:
        hidden_query, query, hidden_key, key, value = target.layers
        own = len(branches)
        branches.append(Branch(len(maps), queries=1))
        maps.append(target.map)
        layers += [hidden_query, query]
        for source, projection in target.sources:
            pairs.append(Pair(own, 0, len(branches), 0))
            branches.append(Branch(len(maps), keys=1, projected=bool(projection)))
            maps.append(source)
            layers += [*projection, hidden_key, key, value]
    if not targets:
        return []
    attended, _, _ = cross_attention(maps, *map(list, zip(*layers, strict=True)), branches, pairs)
    return [x.unflatten(1, (-1, target.map.shape[1])).sum(1) for x, target in zip(attended, targets, strict=True)]
