"""The pass forward over the tokens of a group of branches: what is between its maps and what they attend to."""

from collections.abc import Mapping

import torch
from torch import Tensor

from seqca.ops.shared.synchronisation import merged_moments

from .folding import MapMoments, fold
from .forward import (
    cross_attention_forward_features,
    cross_attention_forward_hidden,
    cross_attention_forward_output,
    cross_attention_forward_states,
    cross_attention_forward_statistics,
)
from .groups import BranchGroup
from .statistics import LayerStatistics


class Activations:
    """First layers, queries and keys of a group, padded, (blocks, tokens, C).

    Args:
        group: the branches.
        known: means and 1/σ of all layers, where these are known.
        moments: of the maps of the group in training.
        norm_eps: added to variances that are not known.
    """

    def __init__(
        self, group: BranchGroup, known: LayerStatistics | None, moments: MapMoments | None, norm_eps: float = 0.0
    ) -> None:
        self.group, self.moments, self._norm_eps = group, moments, norm_eps
        g, padded = group, group.padded
        by_kind = None if known is None else g.vectors(known.means, known.inverses)
        if by_kind is not None:
            self.mean, self.inverse = (x.second for x in by_kind)
        self.first = first = fold(g, by_kind, moments, norm_eps)
        vectors = g.padded_rows(torch.stack([first.mean, first.scale, first.shift], 1))
        self.hidden = g.stack.rows.new_empty(g.size * g.blocks, g.stack.tokens, padded)
        grid = (g.token_tiles * g.tiles(g.blocks * padded), g.size)
        # Of a coarser map with more channels more is loaded ahead, in registers of more threads.
        warps = 8 if g.stack.padded > 64 >= padded else 0
        g.start(
            cross_attention_forward_hidden, grid, warps=warps, rows=g.stack.rows,
            weights=g.padded_weight(first.weight, g.stack.padded), vectors=vectors, hidden=self.hidden, members=g.table,
        )  # fmt: skip

    def normalise(self, statistics: LayerStatistics, process_group: str) -> None:
        """Takes the statistics of the second layers; keeps those of all layers."""
        g = self.group
        assert self.moments is not None
        means, squares = g.new_sums(2, g.size * g.features, g.token_tiles, g.padded)
        g.start(
            cross_attention_forward_statistics, g.feature_grid, hidden=self.hidden, weights=g.second,
            means=means, squares=squares,
        )  # fmt: skip
        counts = means.new_full((g.token_tiles, 1), g.tile_sizes.tokens, dtype=torch.float64)
        counts[-1] = g.stack.tokens - (g.token_tiles - 1) * g.tile_sizes.tokens
        wide = means[..., : g.channels].double()
        mean = (wide * counts).sum(1) / g.stack.tokens
        square = ((wide - mean[:, None]).square() * counts + squares[..., : g.channels]).sum(1)
        total, mean, square = merged_moments(g.stack.tokens, mean.flatten(), square.flatten(), process_group)
        variance = square / total
        inverse = (variance + self._norm_eps).rsqrt()
        self.mean, self.inverse = mean.view(g.size, -1), inverse.view(g.size, -1)
        statistics.keep(g, ("features",), mean, inverse, variance, total)
        first = self.first
        average = first.mean
        if first.projections is not None:
            p = first.projections
            statistics.keep(g, ("projection",), p.mean, p.inverse, p.variance(self.moments), total)
            average = torch.bmm(first.own, p.shift[..., None])[..., 0]
        statistics.keep(g, ("hidden", "values"), average, first.inverse, first.variance(self.moments), total)

    def feature_maps(self) -> None:
        """Makes queries and keys."""
        g = self.group
        scales, shifts = g.norms
        self.scale = scales.second * self.inverse
        self.second_vectors = g.by_feature(self.mean, self.scale, shifts.second)
        self.features = g.stack.rows.new_empty(g.size * g.features, g.stack.tokens, g.padded)
        g.start(
            cross_attention_forward_features, g.feature_grid, hidden=self.hidden, weights=g.second,
            vectors=self.second_vectors, features=self.features,
        )  # fmt: skip

    def states(self) -> dict[int, Tensor]:
        """States of the sources, (keys, B, C + 1, C), by branch of the call."""
        g = self.group
        count = g.size * g.keys
        tiles, parts, span = g.state_parts(count)
        partials = g.new_sums(count, g.stack.images, parts, g.channels + 1, g.channels)
        g.start(
            cross_attention_forward_states, (g.stack.images * parts, tiles, count), hidden=self.hidden,
            features=self.features, partials=partials, span=span, parts=parts,
        )  # fmt: skip
        by_branch = partials.unflatten(0, (g.size, g.keys))
        return {member: x.sum(2) for member, x in zip(g.members, by_branch, strict=True)}

    def outputs(self, states: Mapping[int, Tensor], eps: float) -> dict[int, Tensor]:
        """What the queries attend to, (B, pairs · C, H, W), by branch of the call."""
        g = self.group
        counts = [len(g.problem.pairs_by_query(member)) for member in g.members]
        size = (g.stack.height, g.stack.width)
        attended = [g.stack.rows.new_empty(g.stack.images, count * g.channels, *size) for count in counts]
        grid = (g.image_tiles * g.tiles(g.channels), len(g.pairs))
        g.start(
            cross_attention_forward_output, grid, features=self.features, pairs=g.pair_table,
            sums=g.of_sources(states), attended=tuple((attended[i], attended[i].shape[1]) for i, *_ in g.pairs),
            eps=eps,
        )  # fmt: skip
        return dict(zip(g.members, attended, strict=True))
