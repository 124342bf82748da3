"""The layers of a group of branches as its passes take them: weights, and what normalises them."""

from typing import Any

import torch
import triton
from torch import Tensor

from seqca.ops.shared.synchronisation import merged_moments

from .forward_folding import (
    cross_attention_forward_first_norms,
    cross_attention_forward_projections,
    cross_attention_forward_rounded,
    cross_attention_forward_second_norms,
    cross_attention_forward_weights,
)
from .groups import BranchGroup
from .stacks import MapMoments
from .statistics import LayerStatistics

_ROWS, _COLUMNS = 16, 64
"""Of a tile."""


class Projections:
    """The projections of a group, (branches, rows, …) in float64."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.folded = weight, torch.empty_like(weight)
        """A and γ/σ A."""
        self.norms = weight.new_empty(len(weight), 4, weight.shape[1])
        self.mean, self.inverse, self.scale, self.offset = self.norms.unbind(1)
        """Of A x; 1/σ; γ/σ; what the norm adds to γ/σ A x in evaluation, in training but for the mean."""


class FirstLayers:
    """The layers of a group that read maps, hidden ones above values; (branches, rows, …) in float64."""

    def __init__(self, own: Tensor, weight: Tensor, projections: Projections | None) -> None:
        self.own, self.weight, self.projections = own, weight, projections
        """The weight that was given, and the matrix that is multiplied with the map."""
        self.norms = weight.new_empty(len(weight), 3, weight.shape[1])
        self.mean, self.inverse, self.scale = self.norms.unbind(1)
        """Mean of what the matrix makes of the map, which is taken off; 1/σ; γ/σ."""


class Layers:
    """Layers of a group; what is found of their statistics in training is put in its place among those of all.

    Args:
        group: the branches.
        statistics: of all layers of the call.
        known: whether these are known.
        moments: of the maps of the group in training.
        norm_eps: added to variances that are not known.
    """

    FOLDED = False
    """Whether passes take of a norm γ/σ and what is added, block by block; or mean, γ/σ and β."""

    def __init__(
        self,
        group: BranchGroup,
        statistics: LayerStatistics,
        known: bool,
        moments: MapMoments | None,
        norm_eps: float = 0.0,
    ) -> None:
        self.group, self.moments = group, moments
        self.centred = moments is not None and group.problem.dtype == torch.float32
        """Whether first layers are multiplied with maps less their means, as these are rounded to float32."""
        self._statistics, self._known, self._norm_eps = statistics, known, norm_eps
        g, rows = group, group.stack.rows
        self.first_weight = rows.new_empty(g.size, g.blocks * g.padded, g.stack.padded)
        self.second = rows.new_empty(g.size, g.features * g.padded, g.padded)
        vectors = 2 if self.FOLDED else 3
        self.first_vectors = g.new_sums(g.size, vectors * g.blocks * g.padded)
        self.second_vectors = g.new_sums(g.size * g.features, vectors, g.padded)
        self.second_norms = rows.new_empty(g.size, 3, g.features * g.channels, dtype=torch.float64)
        self.mean, self.inverse, self.scale = self.second_norms.unbind(1)
        self.first = self._fold()
        if known:
            self._normalise_second(self.mean, self.mean, 1, 1, 1)

    def _fold(self) -> FirstLayers:
        g = self.group
        wide = {"dtype": torch.float64, "device": g.stack.rows.device}
        read = g.channels if g.projected else g.stack.channels
        own = torch.empty(g.size, g.blocks * g.channels, read, **wide)
        projections = None
        if g.projected:
            projections = Projections(torch.empty(g.size, g.channels, g.stack.channels, **wide))
        self._start_rows(
            cross_attention_forward_weights, (g.blocks + g.features + g.projected, g.size),
            own=own, projections=own if projections is None else projections.weight, first=self.first_weight,
            second=self.second,
        )  # fmt: skip
        if projections is None:
            first = FirstLayers(own, own, None)
        else:
            p = projections
            self._start_rows(
                cross_attention_forward_projections, (g.size,), weight=p.weight, folded=p.folded, norms=p.norms,
                **self._batch(p.weight),
            )  # fmt: skip
            first = FirstLayers(own, torch.bmm(own, p.folded), p)
            self._start_rows(
                cross_attention_forward_rounded, (g.size * g.blocks,), products=first.weight, first=self.first_weight
            )  # fmt: skip
        self._start_rows(
            cross_attention_forward_first_norms, (g.blocks, g.size), own=own, weight=first.weight, norms=first.norms,
            projections=own if projections is None else projections.norms, vectors=self.first_vectors,
            **self._batch(first.weight),
        )  # fmt: skip
        return first

    def _batch(self, weight: Tensor) -> dict[str, Any]:
        """Of the maps, what makes means and variances of W x where these are not known."""
        if self.moments is None:
            return {"moments": weight, "spread": weight, "total": 1}
        spread = weight if self._known else torch.bmm(weight, self.moments.covariance)
        return {"moments": self.moments.values, "spread": spread, "total": self.moments.tokens}

    def keep(self, means: Tensor, squares: Tensor, span: int, process_group: str) -> None:
        """Normalises the second layers by the moments of spans of tokens.

        Args:
            means: (branches · features, spans, C), padded.
            squares: sums of squared deviations from them, likewise.
            span: tokens of a span; the last has what is left.
            process_group: processes over which moments are taken, "" for none.
        """
        tokens = self.group.stack.tokens
        if not process_group:
            self._normalise_second(means, squares, means.shape[1], span, tokens)
            return
        spans = means.shape[1]
        counts = means.new_full((spans, 1), span, dtype=torch.float64)
        counts[-1] = tokens - (spans - 1) * span
        wide = means.double()
        mean = (wide * counts).sum(1) / tokens
        square = ((wide - mean[:, None]).square() * counts + squares).sum(1)
        total, mean, square = merged_moments(tokens, mean.flatten(), square.flatten(), process_group)
        self._normalise_second(mean, square, 1, total, total)

    def _normalise_second(
        self, means: Tensor, squares: Tensor, spans: int, span: int | Tensor, total: int | Tensor
    ) -> None:
        width = min(32, triton.next_power_of_2(self.group.padded))
        self._start_rows(
            cross_attention_forward_second_norms, (self.group.size * self.group.features,), width, means=means,
            squares=squares, spans=spans, span=span, total=total, vectors=self.second_vectors, norms=self.second_norms,
            BLOCK_SPANS=32, BLOCK_C=width,
        )  # fmt: skip

    def _start_rows(self, kernel: Any, grid: tuple[int, ...], rows: int = _ROWS, **own: Any) -> None:
        """Launch over so many rows of a block at a time, with what is known of all layers."""
        statistics = {f"of_{name}": x for name, x in self._statistics._asdict().items()}
        modes = {
            "eps": self._norm_eps,
            "TRAINING": self.moments is not None,
            "KNOWN": self._known,
            "FOLDED": self.FOLDED,
            "CENTRED": self.centred,
        }
        common = {**statistics, **modes, "BLOCK_ROWS": _ROWS, "BLOCK_K": _COLUMNS}
        own |= {name: x for name, x in common.items() if name in kernel.arg_names}
        self.group.start(kernel, (triton.cdiv(self.group.padded, rows), *grid), warps=4, **own)
