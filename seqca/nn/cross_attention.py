"""Cross attention from a source map to a target map, and the exchange between tasks that is built of it."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from seqca.ops import Branch, Pair, between_tasks, cross_attention

from .batch_norm import (
    running_statistics,
    synchronised_over,
    update_running_statistics,
    uses_batch_statistics,
)
from .blocks import BasicBlock
from .checks import check_alike, check_features, check_map, check_positive, checked_maps, checked_tasks
from .conv_norm import ConvNorm, conv_norm_relu, fusable


class ConvBN(nn.Module):
    """1×1 convolution without bias, then batch norm: a layer of `seqca.ops.cross_attention`, which computes it.

    Args:
        in_channels, out_channels: channels before and after.
        groups: of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)


def attend(
    maps: Sequence[Tensor],
    layers: Sequence[ConvBN],
    branches: Sequence[Branch],
    pairs: Sequence[Pair],
    updates: Sequence[int] | None = None,
) -> list[Tensor]:
    """`seqca.ops.cross_attention` with parameters and statistics of modules, whose running statistics it updates.

    Forward hooks of the layers are not run.

    Args:
        maps, branches, pairs: of the operator.
        layers: in its order.
        updates: how often the running statistics of each layer are updated; by default once.

    Returns:
        Attended maps, for each branch that has queries.

    Raises:
        ValueError: if some of the batch norms would use statistics of the batch and others running ones, or they differ
            in eps or processes.
    """
    norms = [layer.bn for layer in layers]
    modes = {(uses_batch_statistics(bn), bn.eps, synchronised_over(bn)) for bn in norms}
    if len(modes) > 1:
        raise ValueError(
            "batch norms of one exchange: got some in training and some in evaluation mode, or of several eps or "
            "process groups, expected all alike"
        )
    return attend_joined(maps, [[ConvNorm(layer.conv, layer.bn)] for layer in layers], branches, pairs, updates=updates)


def attend_joined(
    maps: Sequence[Tensor],
    layers: Sequence[Sequence[ConvNorm]],
    branches: Sequence[Branch],
    pairs: Sequence[Pair],
    *,
    eps: float = 1e-12,
    updates: Sequence[int] | None = None,
) -> list[Tensor]:
    """`seqca.ops.cross_attention` on layers whose rows are those of several convolutions, one after the other.

    Args:
        maps, branches, pairs: of the operator.
        layers: in its order, each as what reads the same map. All batch norms are in the same mode, of one eps and of
            the same processes. Their running statistics are updated.
        eps: lower bound of the denominators.
        updates: how often the running statistics of each layer are updated; by default once.

    Returns:
        Attended maps, for each branch that has queries.
    """

    def joined(read: Callable[[ConvNorm], Tensor]) -> list[Tensor]:
        return [torch.cat([read(rows) for rows in layer]) if len(layer) > 1 else read(layer[0]) for layer in layers]

    first = layers[0][0].bn
    batch = uses_batch_statistics(first)
    attended, means, variances = cross_attention(
        maps,
        joined(lambda rows: rows.conv.weight),
        joined(lambda rows: rows.bn.weight),
        joined(lambda rows: rows.bn.bias),
        branches,
        pairs,
        running_means=None if batch else joined(lambda rows: running_statistics(rows.bn)[0]),
        running_vars=None if batch else joined(lambda rows: running_statistics(rows.bn)[1]),
        norm_eps=first.eps,
        eps=eps,
        group=synchronised_over(first),
    )
    if batch:
        norms = [rows.bn for layer in layers for rows in layer]
        counts = zip(layers, updates or [1] * len(layers), strict=True)
        uses = [count for layer, count in counts for _ in layer]
        order = [i for i, count in enumerate(uses) for _ in range(count)]
        found = norms, _by_norm(layers, means), _by_norm(layers, variances)
        update_running_statistics(*([x[i] for i in order] for x in found))  # type: ignore[arg-type]
    return attended


def _by_norm(layers: Sequence[Sequence[ConvNorm]], vectors: Sequence[Tensor]) -> list[Tensor]:
    """Vectors by layer as those of its batch norms."""
    sizes = [[len(rows.conv.weight) for rows in layer] for layer in layers]
    return [part for x, own in zip(vectors, sizes, strict=True) for part in x.split(own)]


class CrossAttention(nn.Module):
    """CAM: what a source map tells the pixels of a target map (Kim et al. 2022, section 2.2).

    q = softplus(BN(W₂ relu(BN(W₁ x_target)))), k likewise from the source with weights of its own,
    v = relu(BN(W x_source)); then linear attention per image: `seqca.ops.cross_attention` for one pair.

    Args:
        channels: C of both maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_positive(channels=channels)
        self.channels = channels
        self.query_hidden = ConvBN(channels, channels)
        self.query = ConvBN(channels, channels)
        self.key_hidden = ConvBN(channels, channels)
        self.key = ConvBN(channels, channels)
        self.value = ConvBN(channels, channels)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """Maps (B, C, H, W) and (B, C, H', W') of any two sizes → (B, C, H, W)."""
        check_map("target", target, self.channels, self.value.conv.weight)
        check_map("source", source, self.channels, self.value.conv.weight)
        check_alike("source", source, target)
        branches = [Branch(0, queries=1), Branch(1, keys=1)]
        (attended,) = attend([target, source], [*self.query_layers(), *self.key_layers()], branches, [Pair(0, 0, 1, 0)])
        return attended

    def query_layers(self) -> list[ConvBN]:
        """Layers of a branch that attends."""
        return [self.query_hidden, self.query]

    def key_layers(self) -> list[ConvBN]:
        """Layers of a branch that is attended to."""
        return [self.key_hidden, self.key, self.value]


class PairProjections(nn.Module):
    """The layers of one map for all its pairs side by side.

    Args:
        channels: C.
        pairs: P, the number of other tasks. `hidden` and `features` hold P blocks of C channels for the queries, then
            P for the keys; `value` holds P blocks.
    """

    def __init__(self, channels: int, pairs: int) -> None:
        super().__init__()
        self.hidden = ConvBN(channels, 2 * pairs * channels)
        self.features = ConvBN(2 * pairs * channels, 2 * pairs * channels, groups=2 * pairs)
        self.value = ConvBN(channels, pairs * channels)


class Reduction(BasicBlock):
    """The basic block R on [F, A_1, F, A_2, …], given F once (Kim et al. 2022, section 2.3).

    A convolution that reads a map several times is one with the sum of the weights. Of several targets it is one call,
    with the statistics of each by themselves.

    Args:
        channels: C of F and of every A.
        pairs: how many A.
    """

    def __init__(self, channels: int, pairs: int) -> None:
        super().__init__(2 * channels * pairs, channels, momentum=0.01, project=True)
        self.channels, self.pairs = channels, pairs

    def forward(self, x: Tensor | Sequence[Tensor], targets: int = 1) -> Tensor:
        """[F, A_1, A_2, …], (1 + pairs)·C channels in all → (B, C, H, W).

        Of several targets the maps of each, one after the other, → (targets·B, C, H, W).

        Raises:
            TypeError, ValueError: maps that do not fit the weights or each other, or not as many for each target.
        """
        check_positive(targets=targets)
        maps = checked_maps("x", x, targets * (1 + self.pairs) * self.channels, self.conv1.weight)
        if len(maps) % targets:
            raise ValueError(f"x: got {len(maps)} maps, expected as many for each of {targets} targets")
        layers = self._layers()
        parameters = parameters_read_once(layers, self.pairs)
        if fusable(layers):
            return conv_norm_relu(maps, layers, projection=True, parameters=parameters, batches=targets)
        count = len(maps) // targets
        return torch.cat([self._one_by_one(maps[i : i + count], parameters) for i in range(0, len(maps), count)])


def parameters_read_once(layers: Sequence[ConvNorm], pairs: int) -> list[list[Tensor]]:
    """The parameters of the layers of a block on [F, A_1, F, A_2, …] as those of one on [F, A_1, A_2, …].

    Args:
        layers: those of the block behind each other, then its shortcut's: the first and the last one read the maps.
        pairs: how many A.
    """
    parameters = [layer.parameters() for layer in layers]
    for reader in (parameters[0], parameters[-1]):
        own, attended = reader[0].unflatten(1, (pairs, 2, -1)).unbind(2)
        reader[0] = torch.cat([own.sum(1), attended.flatten(1, 2)], 1)
    return parameters


class CrossTaskAttention(nn.Module):
    """CTAM: every task gathers from every other task at one scale (Kim et al. 2022, section 2.3).

    For target i, A_ij = CAM_ij(F_i, F_j) for every other task j, each ordered pair with weights of its own;
    F̂_i = F_i + R(Z_i), where Z_i concatenates [F_i, A_ij] over the sources, the last source first, and the basic block
    R is shared by all targets. With a single task this is the identity, and has no parameters.

    All pairs are one call of `seqca.ops.cross_attention`, and R of all targets one of `seqca.ops.norm_relu`.

    Args:
        tasks: names, in order.
        channels: C of every map.

    Raises:
        ValueError: no task, or one twice.
    """

    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        super().__init__()
        check_positive(channels=channels)
        self.tasks, self.channels = checked_tasks(tasks), channels
        if len(self.tasks) > 1:
            others = len(self.tasks) - 1
            self.projections = nn.ModuleDict({task: PairProjections(channels, others) for task in self.tasks})
            self.reduction = Reduction(channels, others)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{task: (B, C, H, W)} → the same, tasks in order."""
        weight = self.reduction.conv1.weight if len(self.tasks) > 1 else None
        check_features(features, self.tasks, self.channels, weight)
        if len(self.tasks) == 1:
            return dict(features)
        maps = [features[task] for task in self.tasks]
        every = [cast(PairProjections, self.projections[task]) for task in self.tasks]
        layers = [layer for own in every for layer in (own.hidden, own.features, own.value)]
        attended_maps = attend(maps, layers, *between_tasks(len(maps)))
        read = [x for own in zip(maps, attended_maps, strict=True) for x in own]
        reduced = self.reduction(read, targets=len(maps)).unflatten(0, (len(maps), maps[0].shape[0])).unbind()
        return {task: target + own for task, target, own in zip(self.tasks, maps, reduced, strict=True)}
