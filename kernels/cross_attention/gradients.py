"""The pass backward through the layers of a group of branches, from gradients of their norms to those of its maps."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import triton
from torch import Tensor

from seqca.ops.shared.synchronisation import summed

from .backward_folding import (
    cross_attention_backward_affine,
    cross_attention_backward_centres,
    cross_attention_backward_folded,
    cross_attention_backward_norms,
    cross_attention_backward_summed_weights,
)
from .backward_layers import cross_attention_backward_maps, cross_attention_backward_products
from .groups import BranchGroup
from .layers import Layers
from .problem import Problem
from .stacks import split

_ROWS, _COLUMNS = 16, 32
"""Of a tile."""

StateGradient = tuple[Tensor, int]
"""Gradients of states (…, B, C + 1, C), and which of them."""


class ParameterGradients:
    """Gradients of the parameters of all layers, which kernels fill in."""

    def __init__(self, problem: Problem) -> None:
        self.weights, self.scales, self.shifts = (
            [torch.empty_like(x) for x in tensors] for tensors in (problem.weights, problem.scales, problem.shifts)
        )

    def table(self, group: BranchGroup) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """A row for each layer of the branches of a group."""
        return tuple((self.weights[i], self.scales[i], self.shifts[i]) for i in group.layer_order)

    def like(self, *lists: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Those of weights, γ and β, in the shapes and dtypes of these."""
        found = zip((self.weights, self.scales, self.shifts), lists, strict=True)
        return tuple([x.view(y.shape).to(y.dtype) for x, y in zip(*pair, strict=True)] for pair in found)


class LayerGradients:
    """Gradients of the norms of a group, on which subclasses have made those of queries, keys and values.

    Args:
        layers: of the group.
        of_first: gradients of the norms of first layers, (blocks, tokens, C), once `_through_second` has made them.
    """

    def __init__(self, layers: Layers, of_first: Tensor) -> None:
        self.group, self._moments = layers.group, layers.moments
        self._layers, self._of_first = layers, of_first

    def _second_sums(self) -> Tensor:
        """Parts of Σ s and Σ s (u − mean), (blocks, parts, 2, C), padded, of gradients s of the norms of u = W₂ h."""
        raise NotImplementedError

    def _through_second(self, vectors: Tensor) -> Tensor:
        """Makes the gradients of the norms of hidden layers; parts of those of W₂, (blocks, parts, C, C), padded.

        With `vectors` (mean, γ/σ, constant, slope) the gradient of W₂ h is γ/σ s − constant − slope (W₂ h − mean).
        """
        raise NotImplementedError

    def through_layers(self, d_maps: Sequence[Tensor], parameters: ParameterGradients, process_group: str) -> None:
        """Goes from the gradients of all norms to those of parameters and maps."""
        g, training = self.group, self._moments is not None
        self._table = parameters.table(g)
        total: int | Tensor = g.stack.tokens
        sums = self._second_sums()
        vectors = g.new_sums(len(sums), 4, g.padded)
        found = sums.new_empty(len(sums), 2, g.padded, dtype=torch.float64)
        common = {"norms": self._layers.second_norms, "found": found, "vectors": vectors, "BLOCK_C": 32}
        self._start(
            cross_attention_backward_norms, (len(sums),), _COLUMNS, sums=sums, parts=sums.shape[1], total=total,
            PARAMETERS=True, TRAINING=training, **common,
        )  # fmt: skip
        if training and process_group:
            total, every, _ = summed(g.stack.tokens, found.flatten(), found.new_empty(0), process_group)
            self._start(
                cross_attention_backward_norms, (len(sums),), _COLUMNS, sums=every, parts=1, total=total,
                PARAMETERS=False, TRAINING=True, **common,
            )  # fmt: skip
        partials = self._through_second(vectors)
        self._sum_weights(partials, g.features, first=False)
        scaled, found, d_covariance = self._through_first()
        self._into_maps(d_maps, scaled, found, d_covariance, total, process_group)

    def _start(self, kernel: Any, grid: tuple[int, ...], rows: int = _ROWS, **own: Any) -> None:
        """Launch over so many rows of a block at a time."""
        common = {"gradients": self._table, "BLOCK_ROWS": _ROWS, "BLOCK_K": _COLUMNS}
        own |= {name: x for name, x in common.items() if name in kernel.arg_names}
        self.group.start(kernel, (triton.cdiv(self.group.padded, rows), *grid), warps=4, **own)

    def _sum_weights(self, partials: Tensor, blocks: int, first: bool) -> None:
        """Puts gradients (blocks, parts, C, C) of weights in their places."""
        steps = dict(zip(("of_block", "of_part", "of_row"), partials.stride(), strict=False))
        self._start(
            cross_attention_backward_summed_weights, (blocks, self.group.size), partials=partials,
            parts=partials.shape[1], FIRST=first, **steps,
        )  # fmt: skip

    def _through_first(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """γ/σ W as it is multiplied with the gradients of norms; their sums; in training gradients of covariances."""
        g, first = self.group, self._layers.first
        products, sums = self._products(self._of_first, g.stack.rows, self._centres, g.blocks, g.blocks, 0)
        scaled, found = torch.empty_like(self._layers.first_weight), torch.empty_like(first.mean)
        d_weight = torch.empty_like(first.weight)
        weighted = self._folded(
            first.weight, first.norms, d_weight, g.blocks, products=products, sums=sums, parts=len(products),
            found=found, scaled=scaled, HEIGHT=g.padded, WIDTH=g.stack.padded, PROJECTION=False, SUMS=True,
        )  # fmt: skip
        d_covariance = None if self._moments is None else torch.bmm(first.weight.mT, weighted)
        p = first.projections
        if p is not None:
            d_folded, d_own = torch.bmm(first.own.mT, d_weight), torch.bmm(d_weight, p.folded.mT)
            sums = d_folded
            if self._moments is None:
                scaled_sums = first.scale * found
                sums = torch.bmm(scaled_sums[:, None], first.own)
                d_own.baddbmm_(scaled_sums[..., None], p.offset[:, None])
            self._sum_weights(d_own.view(-1, 1, g.channels, g.channels), g.blocks, first=True)
            weighted = self._folded(
                p.weight, p.norms, torch.empty_like(p.weight), 1, products=d_folded, sums=sums, parts=1, found=found,
                scaled=scaled, HEIGHT=g.channels, WIDTH=g.stack.channels, PROJECTION=True, SUMS=self._moments is None,
            )  # fmt: skip
            if d_covariance is not None:
                d_covariance.baddbmm_(p.weight.mT, weighted)
        return scaled, found, d_covariance

    def _folded(self, weight: Tensor, norms: Tensor, d_weight: Tensor, blocks: int, **own: Any) -> Tensor:
        """Gradients of first layers or projections; those of variances times the weight."""
        m, weighted = self._moments, torch.empty_like(weight)
        spread = weight if m is None else torch.bmm(weight, m.covariance)
        self._start(
            cross_attention_backward_folded, (blocks, self.group.size), weight=weight, norms=norms, spread=spread,
            centres=self._centres, moments=weight if m is None else m.values, d_weight=d_weight, weighted=weighted,
            TRAINING=m is not None, **own,
        )  # fmt: skip
        return weighted

    def _products(
        self, left: Tensor, right: Tensor, centres: Tensor, taken: int, of_left: int, of_right: int
    ) -> tuple[Tensor, Tensor]:
        """Σ s (x − centre)ᵀ (parts, branches, blocks, C, columns) and Σ s (parts, branches, blocks, C), padded."""
        g, columns = self.group, right.shape[2]
        tiles = g.tiles(g.padded) * g.tiles(columns)
        parts, span = split(g.stack.tokens, g.tile_sizes.tokens, tiles * g.size * taken)
        # The gradient of a projection sums them over the rows of a layer: their errors may all have one sign there. The
        # digits that half precision has fp32 sums keep.
        exact = g.projected and not of_right and g.problem.dtype == torch.float32
        dtype = torch.float64 if exact else torch.float32
        products = left.new_empty(parts, g.size, taken, g.padded, columns, dtype=dtype)
        sums = left.new_empty(parts, g.size, taken, g.padded, dtype=dtype)
        g.start(
            cross_attention_backward_products, (parts, tiles, g.size * taken), g.tile_sizes.fewer_warps, left=left,
            right=right, centres=centres, members=g.table, products=products, sums=sums, span=span,
            K=columns, LEFT=of_left, RIGHT=of_right, BLOCKS=taken,
        )  # fmt: skip
        return products, sums

    @cached_property
    def _centres(self) -> Tensor:
        """What is taken from the maps, padded, (branches, channels); 0 in evaluation."""
        g = self.group
        result = g.new_sums(g.size, g.stack.padded)
        if self._moments is None:
            return result.zero_()
        self._over_columns(
            cross_attention_backward_centres, rows=g.stack.rows, moments=self._moments.values, centres=result
        )
        return result

    def _over_columns(self, kernel: Any, **own: Any) -> None:
        """Launch over the channels of the maps of the branches, some at a time."""
        g = self.group
        g.start(kernel, (triton.cdiv(g.stack.padded, _COLUMNS), g.size), warps=4, BLOCK_K=_COLUMNS, **own)

    def _into_maps(
        self,
        d_maps: Sequence[Tensor],
        scaled: Tensor,
        found: Tensor,
        d_covariance: Tensor | None,
        total: int | Tensor,
        process_group: str,
    ) -> None:
        """Gradients of the maps, by those of the first norms and of the maps' moments."""
        g = self.group
        means, constants = torch.empty_like(self._centres), torch.empty_like(self._centres)
        slopes = g.new_sums(g.size, g.stack.padded, g.stack.padded)
        if self._moments is not None and d_covariance is not None:
            d_mean = found
            if process_group:
                rows = scaled.unflatten(1, (g.blocks, g.padded))[:, :, : g.channels, : g.stack.channels].flatten(1, 2)
                own = -torch.bmm(found[:, None], rows.double()).flatten()
                _, d_mean, d_covariance = summed(g.stack.tokens, own, d_covariance.flatten(), process_group)
            self._over_columns(
                cross_attention_backward_affine, scaled=scaled, found=found, moments=self._moments.values,
                d_means=d_mean, d_covariances=d_covariance, means=means, constants=constants, slopes=slopes,
                total=total, SUMMED=bool(process_group), BLOCK_ROWS=_COLUMNS,
            )  # fmt: skip
        maps = tuple((d_maps[g.problem.branches[i].map],) for i in g.members)
        g.start(
            cross_attention_backward_maps, (g.image_tiles * g.tiles(g.stack.padded), g.size),
            g.tile_sizes.fewer_warps, gradients=self._of_first, rows=g.stack.rows, weights=scaled, centres=means,
            slopes=slopes, constants=constants, members=g.table, maps=maps, channels=g.stack.channels,
            AFFINE=d_covariance is not None, AGAIN=g.again,
        )  # fmt: skip
