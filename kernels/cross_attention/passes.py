"""The passes over the tokens of a group: what is between its maps and what they attend to, and the way back."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from seqca.ops.shared.synchronisation import merged_moments, summed

from .backward import (
    cross_attention_backward_hidden,
    cross_attention_backward_keys,
    cross_attention_backward_layer,
    cross_attention_backward_maps,
    cross_attention_backward_products,
    cross_attention_backward_queries,
    cross_attention_backward_second,
    cross_attention_backward_sources,
    cross_attention_backward_states,
    cross_attention_backward_values,
    cross_attention_backward_weights,
)
from .folding import Gradients as LayerGradients
from .folding import Moments, fold, unfold
from .forward import (
    cross_attention_forward_features,
    cross_attention_forward_hidden,
    cross_attention_forward_output,
    cross_attention_forward_states,
    cross_attention_forward_statistics,
)
from .groups import Group, exact_centres, split
from .statistics import Statistics

State = tuple[Tensor, int]
"""A tensor (…, B, C + 1, C), and which of its states."""


class Activations:
    """Of a group, by block, padded: (blocks, tokens, C) of its first layers and of its queries and keys.

    Args:
        group: the branches.
        known: means and 1/σ of all layers, where these are known.
        moments: of the maps of the group in training.
        norm_eps: added to variances that are not known.
    """

    def __init__(self, group: Group, known: Statistics | None, moments: Moments | None, norm_eps: float = 0.0) -> None:
        self.group, self._moments, self._norm_eps = group, moments, norm_eps
        g, padded = group, group.padded
        by_kind = None if known is None else g.vectors(known.means, known.inverses)
        if by_kind is not None:
            self.mean, self.inverse = (x.second for x in by_kind)
        self.first = first = fold(g, by_kind, moments, norm_eps)
        self.first_weight = g.padded_weight(first.weight, g.stack.padded)
        self.first_vectors = g.padded_rows(torch.stack([first.mean, first.scale, first.shift], 1))
        self.hidden = g.stack.rows.new_empty(g.size * g.blocks, g.stack.tokens, padded)
        grid = (g.token_tiles * g.tiles(g.blocks * padded), g.size)
        # Of a coarser map with more channels more is loaded ahead, in registers of more threads.
        warps = 8 if g.stack.padded > 64 >= padded else 0
        g.start(
            cross_attention_forward_hidden, grid, warps=warps, rows=g.stack.rows, weights=self.first_weight,
            vectors=self.first_vectors, hidden=self.hidden, members=g.table,
        )  # fmt: skip

    def _grid(self) -> tuple[int, int, int]:
        """A program for each tile of every block of queries or keys."""
        g = self.group
        return g.token_tiles * g.tiles(g.padded), g.features, g.size

    def normalise(self, statistics: Statistics, process_group: str) -> None:
        """Takes the statistics of the second layers; keeps those of all layers."""
        g = self.group
        assert self._moments is not None
        means, squares = self.first_vectors.new_empty(2, g.size * g.features, g.token_tiles, g.padded)
        g.start(
            cross_attention_forward_statistics, self._grid(), hidden=self.hidden, weights=g.second,
            means=means, squares=squares,
        )  # fmt: skip
        counts = means.new_full((g.token_tiles, 1), g.launch_blocks.tokens, dtype=torch.float64)
        counts[-1] = g.stack.tokens - (g.token_tiles - 1) * g.launch_blocks.tokens
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
        if first.projection is not None:
            p = first.projection
            statistics.keep(g, ("projection",), p.mean, p.inverse, p.variance(self._moments), total)
            average = torch.bmm(first.own, p.shift[..., None])[..., 0]
        statistics.keep(g, ("hidden", "values"), average, first.inverse, first.variance(self._moments), total)

    def feature_maps(self) -> None:
        """Queries and keys."""
        g = self.group
        scales, shifts = g.norms
        self.scale = scales.second * self.inverse
        self.second_vectors = self._by_block(self.mean, self.scale, shifts.second)
        self.features = g.stack.rows.new_empty(g.size * g.features, g.stack.tokens, g.padded)
        g.start(
            cross_attention_forward_features, self._grid(), hidden=self.hidden, weights=g.second,
            vectors=self.second_vectors, features=self.features,
        )  # fmt: skip

    def _by_block(self, *vectors: Tensor) -> Tensor:
        """(branches · features, vectors, C), padded."""
        g = self.group
        rows = torch.stack([x.unflatten(1, (g.features, g.channels)) for x in vectors], 2)
        return g.padded_rows(rows).flatten(0, 1)

    def _parts(self, states: int) -> tuple[int, int, int]:
        """Programs of a state, parts of an image, tokens of a part."""
        g = self.group
        tiles = g.tiles(g.channels + 1) * g.tiles(g.channels)
        parts, span = split(g.stack.area, g.launch_blocks.tokens, tiles * states * g.stack.images)
        return tiles, parts, span

    def _partials(self, states: int, parts: int) -> Tensor:
        g = self.group
        size = (states, g.stack.images, parts, g.channels + 1, g.channels)
        return g.stack.rows.new_empty(size, dtype=torch.float32)

    def states(self) -> dict[int, Tensor]:
        """By branch of the call (keys, B, C + 1, C)."""
        g = self.group
        count = g.size * g.keys
        tiles, parts, span = self._parts(count)
        partials = self._partials(count, parts)
        g.start(
            cross_attention_forward_states, (g.stack.images * parts, tiles, count), hidden=self.hidden,
            features=self.features, partials=partials, span=span, parts=parts,
        )  # fmt: skip
        by_branch = partials.unflatten(0, (g.size, g.keys))
        return {member: x.sum(2) for member, x in zip(g.members, by_branch, strict=True)}

    def _of_sources(self, sums: Mapping[int, Tensor]) -> tuple[tuple[Tensor], ...]:
        """Of the pairs, the states of their sources."""
        return tuple((sums[pair.source],) for *_, pair in self.group.pairs)

    def outputs(self, sums: Mapping[int, Tensor], eps: float) -> dict[int, Tensor]:
        """By branch of the call what its queries attend to, (B, pairs · C, H, W)."""
        g = self.group
        counts = [len(g.call.pairs_by_query(member)) for member in g.members]
        size = (g.stack.height, g.stack.width)
        attended = [g.stack.rows.new_empty(g.stack.images, count * g.channels, *size) for count in counts]
        grid = (g.image_tiles * g.tiles(g.channels), len(g.pairs))
        g.start(
            cross_attention_forward_output, grid, features=self.features, pairs=g.pair_table,
            sums=self._of_sources(sums), attended=tuple((attended[i], attended[i].shape[1]) for i, *_ in g.pairs),
            eps=eps,
        )  # fmt: skip
        return dict(zip(g.members, attended, strict=True))

    def prepare_gradients(self) -> None:
        """Memory for those of the norms of queries and keys, and their sums."""
        g = self.group
        self.gradients = torch.empty_like(self.features)
        self._norm_sums = self.first_vectors.new_empty(g.size * g.features, g.image_tiles, 2, g.padded)

    def from_targets(self, grads: Mapping[int, Tensor], sums: Mapping[int, Tensor], eps: float) -> Tensor:
        """Gradients of the norms of queries; those of the states of each pair, (pairs, B, C + 1, C)."""
        g = self.group
        of_maps = tuple((grads[i], *grads[i].stride()) for i in g.members)
        weights = self.first_vectors.new_empty(len(g.pairs), g.stack.tokens, 2)
        common = {"pairs": g.pair_table, "grads": of_maps, "weights": weights}
        sources = self._of_sources(sums)
        g.start(
            cross_attention_backward_weights, (g.image_tiles, len(g.pairs)), features=self.features, sums=sources,
            eps=eps, **common,
        )  # fmt: skip
        tiles, parts, span = self._parts(len(g.pairs))
        partials = self._partials(len(g.pairs), parts)
        g.start(
            cross_attention_backward_states, (g.stack.images * parts, tiles, len(g.pairs)), features=self.features,
            partials=partials, span=span, parts=parts, **common,
        )  # fmt: skip
        own = [(i, query) for i, query, *_ in g.pairs]
        order = [(i, query) for i in range(g.size) for query in range(g.queries)]
        blocks = tuple((own.index(block), own.count(block)) for block in order)
        grid = (g.image_tiles * g.tiles(g.padded), g.queries, g.size)
        g.start(
            cross_attention_backward_queries, grid, hidden=self.hidden, second=g.second, vectors=self.second_vectors,
            gradients=self.gradients, sums_of_norm=self._norm_sums, blocks=blocks, sums=sources, **common,
        )  # fmt: skip
        return partials.sum(2)

    def from_states(self, states: Mapping[tuple[int, int], State]) -> None:
        """Gradients of the norms of keys and, in place of these, of values, by those of states by branch and block."""
        g = self.group
        rows = tuple(states[member, key] for member in g.members for key in range(g.keys))
        layer = {"second": g.second, "vectors": self.second_vectors, "gradients": self.gradients}
        of_keys = {"hidden": self.hidden, "sums_of_norm": self._norm_sums, "states": rows, **layer}
        grid = (g.image_tiles * g.tiles(g.padded), g.keys, g.size)
        if g.whole:
            g.start(cross_attention_backward_sources, grid, warps=8, features=self.features, **of_keys)
            return
        g.start(cross_attention_backward_keys, grid, **of_keys)
        g.start(cross_attention_backward_values, grid, hidden=self.hidden, features=self.features, states=rows)

    def through_layers(self, gradients: "Gradients", process_group: str) -> None:
        """From the gradients of all norms to those of parameters and maps."""
        g = self.group
        sums = self._norm_sums[..., : g.channels].sum(1, dtype=torch.float64)
        shifts, scales = sums.unflatten(0, (g.size, g.features)).transpose(1, 2).flatten(2).unbind(1)
        scales = scales * self.inverse
        gradients.keep(g, None, scales, shifts, "features")
        constant = slope = torch.zeros_like(shifts)
        total: int | Tensor = g.stack.tokens
        if self._moments is not None:
            total, all_shifts, all_scales = summed(g.stack.tokens, shifts.flatten(), scales.flatten(), process_group)
            constant = self.scale * all_shifts.view_as(shifts) / total
            slope = self.scale * self.inverse * all_scales.view_as(shifts) / total
        vectors = self._by_block(self.mean, self.scale, constant, slope)
        gradients.keep(g, self._through_second(vectors).flatten(1, 2), None, None, "features")
        products, sums = self._products(self.hidden, g.stack.rows, self._centres, g.blocks, g.blocks, 0)
        if self._moments is not None:
            products -= sums[..., None] * self._off_centre[:, None, None]
        of_layers = unfold(self.first, products.flatten(1, 2), sums.flatten(1), self._moments)
        gradients.keep(g, of_layers.weight, of_layers.scale, of_layers.shift, "hidden", "values")
        if of_layers.projection is not None:
            gradients.keep(g, *of_layers.projection, "projection")
        self._maps(gradients, of_layers, total, process_group)

    def _through_second(self, vectors: Tensor) -> Tensor:
        """Gradients of the norms of hidden layers, in place of these; of W₂ (branches, blocks, C, C), in float64."""
        g = self.group
        arguments = {"hidden": self.hidden, "weights": g.second, "gradients": self.gradients}
        if not g.whole:
            g.start(cross_attention_backward_second, self._grid(), vectors=vectors, **arguments)
            products, _ = self._products(self.gradients, self.hidden, self._centres, g.features, g.features, g.blocks)
            g.start(cross_attention_backward_hidden, self._grid(), **arguments)
            return products
        parts, span = split(g.stack.tokens, g.launch_blocks.tokens, g.size * g.features)
        partials = self.first_vectors.new_empty(parts, g.size, g.features, g.padded, g.padded)
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
        parts, span = split(g.stack.tokens, g.launch_blocks.tokens, tiles * g.size * taken)
        products = self.first_vectors.new_empty(parts, g.size, taken, g.padded, columns)
        sums = self.first_vectors.new_empty(parts, g.size, taken, g.padded)
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
        result = self.first_vectors.new_zeros(self.group.size, self.group.stack.padded)
        if self._moments is not None:
            mean, covariance = self._moments
            variance = covariance.diagonal(dim1=1, dim2=2)
            result[:, : self.group.stack.channels] = exact_centres(mean, variance, self.group.call.dtype)
        return result

    @property
    def _off_centre(self) -> Tensor:
        """By how much the means of the maps are more than what is taken from them, (branches, channels), in float64."""
        assert self._moments is not None
        return self._moments.mean - self._centres[:, : self.group.stack.channels]

    def _maps(self, gradients: "Gradients", of_layers: LayerGradients, total: int | Tensor, process_group: str) -> None:
        """Gradients of the maps, by those of the first norms and of the maps' covariances.

        γ/σ W is rounded as a whole, and the gradient of the mean is that of the rounded matrix: nothing but the
        rounding of results is left of their mean over tokens, which is 0.
        """
        g = self.group
        folded = (self.first.scale[..., None] * self.first.weight).to(g.call.dtype)
        means, constants = torch.zeros_like(self._centres), torch.zeros_like(self._centres)
        slopes = constants
        if self._moments is not None and of_layers.covariance is not None:
            of_mean = -torch.bmm(of_layers.shift[:, None], folded.double())[:, 0]
            of_covariance = of_layers.covariance
            _, mean, covariance = summed(g.stack.tokens, of_mean.flatten(), of_covariance.flatten(), process_group)
            means[:, : g.stack.channels] = self._moments.mean
            constants[:, : g.stack.channels] = mean.view_as(of_mean) / total
            slopes = constants.new_zeros(g.size, g.stack.padded, g.stack.padded)
            slopes[:, : g.stack.channels, : g.stack.channels] = covariance.view_as(of_covariance) * (2 / total)
        maps = tuple((gradients.maps[g.call.branches[i].map],) for i in g.members)
        g.start(
            cross_attention_backward_maps, (g.image_tiles * g.tiles(g.stack.padded), g.size), gradients=self.hidden,
            rows=g.stack.rows, weights=g.padded_weight(folded, g.stack.padded),
            centres=means, slopes=slopes, constants=constants, members=g.table, maps=maps,
            channels=g.stack.channels, AFFINE=of_layers.covariance is not None, AGAIN=g.again,
        )  # fmt: skip


class Gradients:
    """Of the maps and of the parameters of all layers."""

    def __init__(
        self, maps: Sequence[Tensor], weights: Sequence[Tensor], scales: Sequence[Tensor], shifts: Sequence[Tensor]
    ) -> None:
        self.maps = [x.new_empty(x.shape) for x in maps]
        self.weights, self.scales, self.shifts = list(weights), list(scales), list(shifts)

    def keep(
        self, group: Group, weight: Tensor | None, scale: Tensor | None, shift: Tensor | None, *names: str
    ) -> None:
        """Those of layers of a group, (branches, rows, …)."""
        for tensors, x in ((self.weights, weight), (self.scales, scale), (self.shifts, shift)):
            if x is not None:
                group.parted(x, tensors, *names)
