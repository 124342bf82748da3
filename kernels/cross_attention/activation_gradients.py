"""Gradients of the activations of a group where they are in memory."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .activations import Activations
from .backward_attention import (
    cross_attention_backward_keys,
    cross_attention_backward_queries,
    cross_attention_backward_states,
    cross_attention_backward_values,
    cross_attention_backward_weights,
)
from .backward_layers import (
    cross_attention_backward_hidden,
    cross_attention_backward_second,
)
from .gradients import LayerGradients, StateGradient


class ActivationGradients(LayerGradients):
    """Gradients of queries and keys are in memory of their own, those of first layers in place of these.

    Args:
        activations: what is differentiated.
    """

    def __init__(self, activations: Activations) -> None:
        g = activations.group
        super().__init__(activations, activations.hidden)
        self._activations = activations
        self._norm_sums = g.new_sums(g.size * g.features, g.image_tiles, 2, g.padded)
        self._of_features = torch.empty_like(activations.features)

    def from_targets(self, grads: Mapping[int, Tensor], states: Mapping[int, Tensor], eps: float) -> Tensor:
        """Gradients of the norms of queries; those of the states of each pair, (pairs, B, C + 1, C)."""
        g, a = self.group, self._activations
        weights = g.new_sums(len(g.pairs), g.stack.tokens, 2)
        common = {"pairs": g.pair_table, "grads": g.gradient_table(grads), "weights": weights}
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
        grid = (g.image_tiles * g.tiles(g.padded), g.queries, g.size)
        g.start(
            cross_attention_backward_queries, grid, hidden=a.hidden, second=a.second, vectors=a.second_vectors,
            gradients=self._of_features, sums_of_norm=self._norm_sums, blocks=g.pairs_of_blocks, sums=sources,
            **common,
        )  # fmt: skip
        return partials.sum(2)

    def from_states(self, states: Mapping[tuple[int, int], StateGradient]) -> None:
        """Gradients of the norms of keys and, in place of these, of values, by those of states by branch and block."""
        g, a = self.group, self._activations
        rows = g.of_blocks(states)
        grid = (g.image_tiles * g.tiles(g.padded), g.keys, g.size)
        g.start(
            cross_attention_backward_keys, grid, hidden=a.hidden, second=a.second, vectors=a.second_vectors,
            gradients=self._of_features, sums_of_norm=self._norm_sums, states=rows,
        )  # fmt: skip
        g.start(cross_attention_backward_values, grid, hidden=a.hidden, features=a.features, states=rows)

    def _second_sums(self) -> Tensor:
        return self._norm_sums

    def _through_second(self, vectors: Tensor) -> Tensor:
        g, a = self.group, self._activations
        arguments = {"hidden": a.hidden, "weights": a.second, "gradients": self._of_features}
        g.start(cross_attention_backward_second, g.feature_grid, vectors=vectors, **arguments)
        products, _ = self._products(self._of_features, a.hidden, self._centres, g.features, g.features, g.blocks)
        g.start(cross_attention_backward_hidden, g.feature_grid, **arguments)
        return products.flatten(1, 2).transpose(0, 1)
