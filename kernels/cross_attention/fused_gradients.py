"""Gradients where no hidden layer, query, key or value is in memory: of all activations only those of norms are."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .backward_folding import cross_attention_backward_fused_sums
from .fused_activations import FusedActivations
from .fused_backward import (
    cross_attention_backward_fused_keys,
    cross_attention_backward_fused_layer,
    cross_attention_backward_fused_queries,
    cross_attention_backward_fused_states,
    cross_attention_backward_fused_values,
)
from .gradients import LayerGradients, StateGradient
from .stacks import split


class FusedGradients(LayerGradients):
    """Gradients of the norms of second layers stand in the places of those in front of them.

    Args:
        activations: what is differentiated.
    """

    def __init__(self, activations: FusedActivations) -> None:
        g = activations.group
        self._parts, self._span = activations.parts(g.size * max(g.queries, g.keys))
        gradients = g.stack.rows.new_empty(g.size * g.blocks, g.stack.tokens, g.padded)
        super().__init__(activations, gradients)
        self._activations = activations
        self._norm_sums = g.new_sums(g.size * g.features, g.stack.images * self._parts, g.channels, g.channels + 1)

    def from_targets(self, grads: Mapping[int, Tensor], states: Mapping[int, Tensor], eps: float) -> Tensor:
        """Gradients of the norms of queries; those of the states of each pair, (pairs, B, C + 1, C)."""
        g, a = self.group, self._activations
        weights = g.new_sums(len(g.pairs), g.stack.tokens, 2)
        common = {
            "pairs": g.pair_table, "grads": g.gradient_table(grads), "weights": weights, "sums": g.of_sources(states),
            "second_vectors": a.second_vectors,
        }  # fmt: skip
        parts, span = a.parts(len(g.pairs))
        partials = g.new_sums(len(g.pairs), g.stack.images, parts, g.channels + 1, g.channels)
        a.start(
            cross_attention_backward_fused_states, (g.stack.images * parts, len(g.pairs)), partials=partials,
            span=span, parts=parts, eps=eps, **common,
        )  # fmt: skip
        a.start(
            cross_attention_backward_fused_queries, (g.stack.images * self._parts, g.size * g.queries),
            gradients=self._of_first, sums_of_norm=self._norm_sums, blocks=g.pairs_of_blocks,
            span=self._span, parts=self._parts, **common,
        )  # fmt: skip
        return partials.sum(2)

    def from_states(self, states: Mapping[tuple[int, int], StateGradient]) -> None:
        """Gradients of the norms of keys and of values, by those of states by branch and block."""
        g, a = self.group, self._activations
        common = {
            "states": g.of_blocks(states), "second_vectors": a.second_vectors, "gradients": self._of_first,
            "span": self._span, "parts": self._parts,
        }  # fmt: skip
        grid = (g.stack.images * self._parts, g.size * g.keys)
        a.start(cross_attention_backward_fused_keys, grid, sums_of_norm=self._norm_sums, **common)
        a.start(cross_attention_backward_fused_values, grid, **common)

    def _second_sums(self) -> Tensor:
        g, a = self.group, self._activations
        sums = self._norm_sums.new_empty(g.size * g.features, 1, 2, g.padded, dtype=torch.float64)
        self._start(
            cross_attention_backward_fused_sums, (len(sums),), products=self._norm_sums, weights=a.second,
            norms=a.second_norms, sums=sums, parts=self._norm_sums.shape[1],
        )  # fmt: skip
        return sums

    def _through_second(self, vectors: Tensor) -> Tensor:
        g, a = self.group, self._activations
        count = g.size * g.features
        parts, span = split(g.stack.tokens, g.tile_sizes.tokens, count)
        partials = g.new_sums(g.size, g.features, parts, g.padded, g.padded)
        a.start(
            cross_attention_backward_fused_layer, (parts, count), vectors=vectors, gradients=self._of_first,
            products=partials, span=span,
        )  # fmt: skip
        return partials.flatten(0, 1)
