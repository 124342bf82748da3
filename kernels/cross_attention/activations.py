"""The pass forward over the tokens of a group of branches: what is between its maps and what they attend to."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from .forward import (
    cross_attention_forward_features,
    cross_attention_forward_hidden,
    cross_attention_forward_output,
    cross_attention_forward_states,
    cross_attention_forward_statistics,
)
from .layers import Layers


class Activations(Layers):
    """First layers, queries and keys of a group, padded, (blocks, tokens, C)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        g = self.group
        self.hidden = g.stack.rows.new_empty(g.size * g.blocks, g.stack.tokens, g.padded)
        grid = (g.token_tiles * g.tiles(g.blocks * g.padded), g.size)
        # Of a coarser map with more channels more is loaded ahead, in registers of more threads.
        warps = 8 if g.stack.padded > 64 >= g.padded else 0
        g.start(
            cross_attention_forward_hidden, grid, warps=warps, rows=g.stack.rows, weights=self.first_weight,
            moments=self.first.mean if self.moments is None else self.moments.values, vectors=self.first_vectors,
            hidden=self.hidden, members=g.table, CENTRED=self.centred,
        )  # fmt: skip

    def normalise(self, process_group: str) -> None:
        """Takes the statistics of the second layers."""
        g = self.group
        means, squares = g.new_sums(2, g.size * g.features, g.token_tiles, g.padded)
        g.start(
            cross_attention_forward_statistics, g.feature_grid, hidden=self.hidden, weights=self.second,
            means=means, squares=squares,
        )  # fmt: skip
        self.keep(means, squares, g.tile_sizes.tokens, process_group)

    @cached_property
    def features(self) -> Tensor:
        """Queries and keys, made when they are first asked for."""
        g = self.group
        features = g.stack.rows.new_empty(g.size * g.features, g.stack.tokens, g.padded)
        g.start(
            cross_attention_forward_features, g.feature_grid, hidden=self.hidden, weights=self.second,
            vectors=self.second_vectors, features=features,
        )  # fmt: skip
        return features

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
        return g.summed_states(partials)

    def outputs(self, states: Mapping[int, Tensor], eps: float) -> dict[int, Tensor]:
        """What the queries attend to, (B, pairs · C, H, W), by branch of the call."""
        g = self.group
        attended = g.new_outputs()
        g.start(
            cross_attention_forward_output, (g.image_tiles * g.tiles(g.channels), len(g.pairs)),
            features=self.features, pairs=g.pair_table, sums=g.of_sources(states),
            attended=g.output_table(attended), eps=eps,
        )  # fmt: skip
        return attended
