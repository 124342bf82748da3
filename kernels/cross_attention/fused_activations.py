"""The pass forward where a tile has all channels of a block: no hidden layer, query, key or value is written."""

from collections.abc import Mapping
from typing import Any

import triton
from torch import Tensor

from .fused_forward import (
    cross_attention_forward_fused_output,
    cross_attention_forward_fused_states,
    cross_attention_forward_fused_statistics,
)
from .layers import Layers
from .stacks import split


class FusedActivations(Layers):
    """What `Activations` gives forward, of each stage's own: each computes from the maps what it reads."""

    FOLDED = True

    def normalise(self, process_group: str) -> None:
        """Takes the statistics of the second layers."""
        g = self.group
        count = g.size * g.features
        parts, span = split(g.stack.tokens, g.tile_sizes.tokens, count)
        means, squares = g.new_sums(2, count, parts, g.padded)
        self.start(
            cross_attention_forward_fused_statistics, (parts, count), means=means, squares=squares, span=span
        )  # fmt: skip
        self.keep(means, squares, span, process_group)

    def states(self) -> dict[int, Tensor]:
        """States of the sources, (keys, B, C + 1, C), by branch of the call."""
        g = self.group
        count = g.size * g.keys
        parts, span = self.parts(count)
        partials = g.new_sums(count, g.stack.images, parts, g.channels + 1, g.channels)
        self.start(
            cross_attention_forward_fused_states, (g.stack.images * parts, count),
            second_vectors=self.second_vectors, partials=partials, span=span, parts=parts,
        )  # fmt: skip
        return g.summed_states(partials)

    def outputs(self, states: Mapping[int, Tensor], eps: float) -> dict[int, Tensor]:
        """What the queries attend to, (B, pairs · C, H, W), by branch of the call."""
        g = self.group
        attended = g.new_outputs()
        parts, span = self.parts(len(g.pairs))
        self.start(
            cross_attention_forward_fused_output, (g.stack.images * parts, len(g.pairs)),
            second_vectors=self.second_vectors, pairs=g.pair_table, sums=g.of_sources(states),
            attended=g.output_table(attended), span=span, parts=parts, eps=eps,
        )  # fmt: skip
        return attended

    def parts(self, count: int) -> tuple[int, int]:
        """Parts of an image and tokens of a part, of what is computed so many times of each image."""
        g = self.group
        return split(g.stack.area, g.tile_sizes.tokens, count * g.stack.images)

    def start(self, kernel: Any, grid: tuple[int, ...], **own: Any) -> None:
        """Launch with arguments of its own and those that all take.

        Nothing is loaded ahead: it would take registers and shared memory, and with these the place of other programs.
        """
        g = self.group
        g.start(
            kernel, grid, stages=1, rows=g.stack.rows, first=self.first_weight, first_vectors=self.first_vectors,
            second=self.second, members=g.table, BLOCK_C=max(16, triton.next_power_of_2(g.channels + 1)), **own,
        )  # fmt: skip
