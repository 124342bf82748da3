"""The layers of a group of branches as its passes take them: folded, with what normalises them."""

from functools import cached_property

import torch
from torch import Tensor

from seqca.ops.shared.synchronisation import merged_moments

from .folding import MapMoments, fold
from .groups import BranchGroup
from .statistics import LayerStatistics


class Layers:
    """Layers of a group, of which the second are normalised by what is known, or by what `keep` is given.

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
        by_kind = None if known is None else group.vectors(known.means, known.inverses)
        if by_kind is not None:
            self.mean, self.inverse = (x.second for x in by_kind)
        self.first = fold(group, by_kind, moments, norm_eps)
        self.first_weight = group.padded_weight(self.first.weight, group.stack.padded)

    def keep(self, statistics: LayerStatistics, means: Tensor, squares: Tensor, span: int, process_group: str) -> None:
        """Normalises the second layers by the moments of spans of tokens; keeps the statistics of all layers.

        Args:
            statistics: where these are kept.
            means: (branches · features, spans, C), padded.
            squares: sums of squared deviations from them, likewise.
            span: tokens of a span; the last has what is left.
            process_group: processes over which moments are taken, "" for none.
        """
        g = self.group
        assert self.moments is not None
        spans = means.shape[1]
        counts = means.new_full((spans, 1), span, dtype=torch.float64)
        counts[-1] = g.stack.tokens - (spans - 1) * span
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

    @cached_property
    def scale(self) -> Tensor:
        """γ/σ of the second layers."""
        return self.group.norms[0].second * self.inverse

    @cached_property
    def second_vectors(self) -> Tensor:
        """Mean, γ/σ and β of the second layers, (branches · features, 3, C), padded."""
        return self.group.by_block(self.mean, self.scale, self.group.norms[1].second)
