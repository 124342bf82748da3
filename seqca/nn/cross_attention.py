"""Cross attention from a source map to a target map, and the exchange between tasks that is built of it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqca.ops import linear_attention, softplus

from .blocks import BasicBlock
from .checks import check_alike, check_features, check_map, check_positive, checked_tasks


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W, C), a view."""
    return x.flatten(2).mT


def map_like(x: Tensor, reference: Tensor) -> Tensor:
    """The inverse of `tokens`, a view: (B, H·W, C) → (B, C, H, W)."""
    return x.mT.unflatten(2, reference.shape[2:])


class GroupedConv1x1(nn.Conv2d):
    """A 1×1 convolution in groups, computed as one batched matrix product: at the sizes of this network that takes
    less time than a grouped convolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, channels, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        weight = self.weight.view(self.groups, -1, self.in_channels // self.groups)
        return (weight @ x.flatten(2).unflatten(1, (self.groups, -1))).flatten(1, 2).unflatten(2, x.shape[2:])


class ConvBN(nn.Sequential):
    """1×1 convolution without bias, then batch norm."""

    def __init__(self, in_channels: int, out_channels: int, groups: int = 1) -> None:
        super().__init__()
        if groups > 1:
            self.conv: nn.Conv2d = GroupedConv1x1(in_channels, groups)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)


class CrossAttention(nn.Module):
    """CAM: what a source map tells the pixels of a target map (Kim et al. 2022, section 2.2).

    q = softplus(BN(W₂ relu(BN(W₁ x_target)))), k likewise from the source with weights of its own,
    v = relu(BN(W x_source)); then `seqca.ops.linear_attention` per image.

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
        q = softplus(self.query(F.relu(self.query_hidden(target))))
        k = softplus(self.key(F.relu(self.key_hidden(source))))
        v = F.relu(self.value(source))
        attended = linear_attention(tokens(q), tokens(k), tokens(v))
        return map_like(attended, target)


class Projected(NamedTuple):
    """The views of one task's map in its pairs with every other task, each (B, C, H, W), in task order."""

    queries: tuple[Tensor, ...]  # as the target of the pair
    keys: tuple[Tensor, ...]  # as its source
    values: tuple[Tensor, ...]


class PairProjections(nn.Module):
    """The projections of one map for all its pairs side by side.

    Args:
        channels: C.
        pairs: P, the number of other tasks. `hidden` and `features` hold P blocks of C channels for the queries, then
            P for the keys; `value` holds P blocks.
    """

    def __init__(self, channels: int, pairs: int) -> None:
        super().__init__()
        self.channels, self.pairs = channels, pairs
        self.hidden = ConvBN(channels, 2 * pairs * channels)
        self.features = ConvBN(2 * pairs * channels, 2 * pairs * channels, groups=2 * pairs)
        self.value = ConvBN(channels, pairs * channels)

    def forward(self, x: Tensor) -> Projected:
        """(B, C, H, W) → queries, keys and values for each of the P pairs."""
        features = softplus(self.features(F.relu(self.hidden(x)))).split(self.channels, 1)
        values = F.relu(self.value(x)).split(self.channels, 1)
        return Projected(features[: self.pairs], features[self.pairs :], values)


def partner(task: int, other: int) -> int:
    """The place of `other` among the tasks that are not `task`."""
    return other - (other > task)


class CrossTaskAttention(nn.Module):
    """CTAM: every task gathers from every other task at one scale (Kim et al. 2022, section 2.3).

    For target i, A_ij = CAM_ij(F_i, F_j) for every other task j, each ordered pair with weights of its own;
    F̂_i = F_i + R(Z_i), where Z_i concatenates [F_i, A_ij] over the sources, the last source first, and the basic block
    R is shared by all targets. With a single task this is the identity, and has no parameters.

    A map takes part in 2(M − 1) pairs: as target with the M − 1 others, and as source for them. All its projections of
    one kind are one product, and its batch norms one batch norm, since that works channel by channel.

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
            self.reduction = BasicBlock(2 * channels * others, channels, momentum=0.01)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{task: (B, C, H, W)} → the same, tasks in order."""
        weight = self.reduction.conv1.weight if len(self.tasks) > 1 else None
        check_features(features, self.tasks, self.channels, weight)
        if len(self.tasks) == 1:
            return dict(features)
        maps = [features[task] for task in self.tasks]
        projected = [self.projections[task](x) for task, x in zip(self.tasks, maps, strict=True)]
        pairs = [(i, j) for i in range(len(maps)) for j in reversed(range(len(maps))) if j != i]
        attended = linear_attention(
            [tokens(projected[i].queries[partner(i, j)]) for i, j in pairs],
            [tokens(projected[j].keys[partner(j, i)]) for i, j in pairs],
            [tokens(projected[j].values[partner(j, i)]) for i, j in pairs],
        )
        pieces: list[list[Tensor]] = [[] for _ in maps]
        for (i, _), gathered in zip(pairs, attended, strict=True):
            pieces[i] += [maps[i], map_like(gathered, maps[i])]
        return {
            task: target + self.reduction(torch.cat(own, 1))
            for task, target, own in zip(self.tasks, maps, pieces, strict=True)
        }
