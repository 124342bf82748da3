"""The pass backward over the tokens of a group of branches: from what they attend to back to its maps."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from seqca.ops.shared.synchronisation import summed

from .activations import Activations
from .backward_attention import (
    cross_attention_backward_keys,
    cross_attention_backward_queries,
    cross_attention_backward_sources,
    cross_attention_backward_states,
    cross_attention_backward_values,
    cross_attention_backward_weights,
)
from .backward_layers import (
    cross_attention_backward_hidden,
    cross_attention_backward_layer,
    cross_attention_backward_maps,
    cross_attention_backward_products,
    cross_attention_backward_second,
)
from .folding import FoldGradient, unfold
from .groups import BranchGroup
from .stacks import exact_centres, split

StateGradient = tuple[Tensor, int]
"""Gradients of states (…, B, C + 1, C), and which of them."""


class ParameterGradients:
    """Gradients of the parameters of all layers, as they become known."""

    def __init__(self, weights: Sequence[Tensor], scales: Sequence[Tensor], shifts: Sequence[Tensor]) -> None:
        self.weights, self.scales, self.shifts = list(weights), list(scales), list(shifts)

    def keep(
        self, group: BranchGroup, weight: Tensor | None, scale: Tensor | None, shift: Tensor | None, *names: str
    ) -> None:
        """Puts gradients of the named layers of a group, (branches, rows, …), in their places."""
        for tensors, x in ((self.weights, weight), (self.scales, scale), (self.shifts, shift)):
            if x is not None:
                group.parted(x, tensors, *names)


class ActivationGradients:
    """Gradients of the activations of a group: of queries and keys in memory of their own, of first layers in place.

    Args:
        activations: queries and keys are made.
    """

    def __init__(self, activations: Activations) -> None:
        self.group = g = activations.group
        self._activations, self._moments = activations, activations.moments
        self._of_features = torch.empty_like(activations.features)
        self._norm_sums = g.new_sums(g.size * g.features, g.image_tiles, 2, g.padded)

    def from_targets(self, grads: Mapping[int, Tensor], states: Mapping[int, Tensor], eps: float) -> Tensor:
        """Gradients of the norms of queries; those of the states of each pair, (pairs, B, C + 1, C)."""
        g, a = self.group, self._activations
        of_maps = tuple((grads[i], *grads[i].stride()) for i in g.members)
        weights = g.new_sums(len(g.pairs), g.stack.tokens, 2)
        common = {"pairs": g.pair_table, "grads": of_maps, "weights": weights}
        sources = g.of_sources(states)
        g.start(
            cross_attention_backward_weights, (g.image_tiles, len(g.pairs)), features=a.features, sums=sources,
            eps=eps, **common,
        )  # fmt: skip
        tiles, parts, span = g.state_parts(len(g.pairs))
        partials = g.new_sums(len(g.pairs), g.stack.images, parts, g.channels + 1, g.channels)
        g.start(
            cross_attention_backward_states, (g.stack.images * parts, tiles, len(g.pairs)), features=a.features,
            partials=partials, span=span, parts=parts, **common,
        )  # fmt: skip
        own = [(i, query) for i, query, *_ in g.pairs]
        order = [(i, query) for i in range(g.size) for query in range(g.queries)]
        blocks = tuple((own.index(block), own.count(block)) for block in order)
        grid = (g.image_tiles * g.tiles(g.padded), g.queries, g.size)
        g.start(
            cross_attention_backward_queries, grid, hidden=a.hidden, second=g.second, vectors=a.second_vectors,
            gradients=self._of_features, sums_of_norm=self._norm_sums, blocks=blocks, sums=sources, **common,
        )  # fmt: skip
        return partials.sum(2)

    def from_states(self, states: Mapping[tuple[int, int], StateGradient]) -> None:
        """Gradients of the norms of keys and, in place of these, of values, by those of states by branch and block."""
        g, a = self.group, self._activations
        rows = tuple(states[member, key] for member in g.members for key in range(g.keys))
        layer = {"second": g.second, "vectors": a.second_vectors, "gradients": self._of_features}
        of_keys = {"hidden": a.hidden, "sums_of_norm": self._norm_sums, "states": rows, **layer}
        grid = (g.image_tiles * g.tiles(g.padded), g.keys, g.size)
        if g.whole:
            g.start(cross_attention_backward_sources, grid, warps=8, features=a.features, **of_keys)
            return
        g.start(cross_attention_backward_keys, grid, **of_keys)
        g.start(cross_attention_backward_values, grid, hidden=a.hidden, features=a.features, states=rows)

    def through_layers(self, d_maps: Sequence[Tensor], parameters: ParameterGradients, process_group: str) -> None:
        """Goes from the gradients of all norms to those of parameters and maps."""
        g, a = self.group, self._activations
        sums = self._norm_sums[..., : g.channels].sum(1, dtype=torch.float64)
        shifts, scales = sums.unflatten(0, (g.size, g.features)).transpose(1, 2).flatten(2).unbind(1)
        scales = scales * a.inverse
        parameters.keep(g, None, scales, shifts, "features")
        constant = slope = torch.zeros_like(shifts)
        total: int | Tensor = g.stack.tokens
        if self._moments is not None:
            total, all_shifts, all_scales = summed(g.stack.tokens, shifts.flatten(), scales.flatten(), process_group)
            constant = a.scale * all_shifts.view_as(shifts) / total
            slope = a.scale * a.inverse * all_scales.view_as(shifts) / total
        vectors = g.by_block(a.mean, a.scale, constant, slope)
        parameters.keep(g, self._through_second(vectors).flatten(1, 2), None, None, "features")
        products, sums = self._products(a.hidden, g.stack.rows, self._centres, g.blocks, g.blocks, 0)
        if self._moments is not None:
            products -= sums[..., None] * self._off_centre[:, None, None]
        of_fold = unfold(a.first, products.flatten(1, 2), sums.flatten(1), self._moments)
        parameters.keep(g, of_fold.weight, of_fold.scale, of_fold.shift, "hidden", "values")
        if of_fold.projections is not None:
            parameters.keep(g, *of_fold.projections, "projection")
        self._into_maps(d_maps, of_fold, total, process_group)

    def _through_second(self, vectors: Tensor) -> Tensor:
        """Gradients of the norms of hidden layers, in place of these; of W₂ (branches, blocks, C, C), in float64."""
        g, a = self.group, self._activations
        arguments = {"hidden": a.hidden, "weights": g.second, "gradients": self._of_features}
        if not g.whole:
            g.start(cross_attention_backward_second, g.feature_grid, vectors=vectors, **arguments)
            products, _ = self._products(self._of_features, a.hidden, self._centres, g.features, g.features, g.blocks)
            g.start(cross_attention_backward_hidden, g.feature_grid, **arguments)
            return products
        parts, span = split(g.stack.tokens, g.tile_sizes.tokens, g.size * g.features)
        partials = g.new_sums(parts, g.size, g.features, g.padded, g.padded)
        grid = (parts, g.features, g.size)
        place = {"products": partials, "span": span}
        g.start(cross_attention_backward_layer, grid, warps=8, vectors=vectors, **place, **arguments)
        return partials[..., : g.channels, : g.channels].sum(0, dtype=torch.float64)

    def _products(
        self, left: Tensor, right: Tensor, centres: Tensor, taken: int, of_left: int, of_right: int
    ) -> tuple[Tensor, Tensor]:
        """Σ s (x − centre)ᵀ (branches, blocks, C, columns) and Σ s (branches, blocks, C), in float64."""
        g, columns = self.group, right.shape[2]
        tiles = g.tiles(g.padded) * g.tiles(columns)
        parts, span = split(g.stack.tokens, g.tile_sizes.tokens, tiles * g.size * taken)
        products = g.new_sums(parts, g.size, taken, g.padded, columns)
        sums = g.new_sums(parts, g.size, taken, g.padded)
        channels = g.channels if of_right else g.stack.channels
        g.start(
            cross_attention_backward_products, (parts, tiles, g.size * taken), left=left, right=right,
            centres=centres, members=g.table, products=products, sums=sums, span=span,
            K=columns, LEFT=of_left, RIGHT=of_right, BLOCKS=taken,
        )  # fmt: skip
        own = products[..., : g.channels, :channels].sum(0, dtype=torch.float64)
        return own, sums[..., : g.channels].sum(0, dtype=torch.float64)

    @cached_property
    def _centres(self) -> Tensor:
        """What is taken from the maps, padded, (branches, channels); 0 in evaluation."""
        g = self.group
        result = g.new_sums(g.size, g.stack.padded).zero_()
        if self._moments is not None:
            mean, covariance = self._moments
            variance = covariance.diagonal(dim1=1, dim2=2)
            result[:, : g.stack.channels] = exact_centres(mean, variance, g.problem.dtype)
        return result

    @property
    def _off_centre(self) -> Tensor:
        """By how much the means of the maps are more than what is taken from them, (branches, channels), in float64."""
        assert self._moments is not None
        return self._moments.mean - self._centres[:, : self.group.stack.channels]

    def _into_maps(
        self, d_maps: Sequence[Tensor], of_fold: FoldGradient, total: int | Tensor, process_group: str
    ) -> None:
        """Gradients of the maps, by those of the first norms and of the maps' covariances.

        γ/σ W is rounded as a whole, and the gradient of the mean is that of the rounded matrix: nothing but the
        rounding of results is left of their mean over tokens, which is 0.
        """
        g, a = self.group, self._activations
        folded = (a.first.scale[..., None] * a.first.weight).to(g.problem.dtype)
        means, constants = torch.zeros_like(self._centres), torch.zeros_like(self._centres)
        slopes = constants
        if self._moments is not None and of_fold.covariance is not None:
            of_mean = -torch.bmm(of_fold.shift[:, None], folded.double())[:, 0]
            of_covariance = of_fold.covariance
            _, mean, covariance = summed(g.stack.tokens, of_mean.flatten(), of_covariance.flatten(), process_group)
            means[:, : g.stack.channels] = self._moments.mean
            constants[:, : g.stack.channels] = mean.view_as(of_mean) / total
            slopes = constants.new_zeros(g.size, g.stack.padded, g.stack.padded)
            slopes[:, : g.stack.channels, : g.stack.channels] = covariance.view_as(of_covariance) * (2 / total)
        maps = tuple((d_maps[g.problem.branches[i].map],) for i in g.members)
        g.start(
            cross_attention_backward_maps, (g.image_tiles * g.tiles(g.stack.padded), g.size), gradients=a.hidden,
            rows=g.stack.rows, weights=g.padded_weight(folded, g.stack.padded),
            centres=means, slopes=slopes, constants=constants, members=g.table, maps=maps,
            channels=g.stack.channels, AFFINE=of_fold.covariance is not None, AGAIN=g.again,
        )  # fmt: skip
