"""Propagation of task features from a scale to the next finer one."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from seqca.configuration import NETWORK

from .blocks import BasicBlock, SqueezeExcitation, excitations
from .checks import check_features, check_positive, checked_tasks
from .window_self_attention import WindowSelfAttention

HEADS = NETWORK.propagation_heads
"""Of the self-attention stage."""


class FeaturePropagation(nn.Module):
    """FPMA: what all tasks know at one scale, handed to each of them (Kim et al. 2022, section 2.1).

    A self-attention stage looks at the concatenated maps; a softmax over groups of M neighbouring channels of its
    result weighs them; a basic block reduces them to C channels, from which every task takes its share by
    squeeze-and-excitation, on top of its own features.

    Args:
        tasks: the M names, in order.
        channels: C of every map, at least 16; M·C is a multiple of 4.

    Raises:
        ValueError: no task, one twice, or channels that do not fit.
    """

    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        super().__init__()
        check_positive(channels=channels)
        self.tasks, self.channels = checked_tasks(tasks), channels
        count = len(self.tasks)
        if count * channels % HEADS:
            raise ValueError(f"channels: got {channels} for {count} tasks, expected a multiple of {HEADS} in all")
        self.attention = WindowSelfAttention(count * channels, depth=1, heads=HEADS)
        self.reduction = BasicBlock(count * channels, channels, project=True)
        self.excitation = nn.ModuleDict({task: SqueezeExcitation(channels) for task in self.tasks})

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{task: (B, C, H, W)} → the same, tasks in order; resizing is the caller's."""
        check_features(features, self.tasks, self.channels, self.attention.embedding.weight)
        joined = torch.cat([features[task] for task in self.tasks], 1)
        groups = (-1, len(self.tasks))
        weights = self.attention(joined).unflatten(1, groups).softmax(2)
        shared = self.reduction((weights * joined.unflatten(1, groups)).flatten(1, 2))
        scales = excitations([cast(SqueezeExcitation, self.excitation[task]) for task in self.tasks], shared)
        return {task: shared * scale + features[task] for task, scale in zip(self.tasks, scales, strict=True)}
