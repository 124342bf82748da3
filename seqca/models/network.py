"""The Sequential Cross Attention multi-task network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqca.configuration import NETWORK
from seqca.nn import (
    BasicBlock,
    CrossScaleAttention,
    CrossTaskAttention,
    FeatureAggregation,
    FeaturePropagation,
    WindowSelfAttention,
)
from seqca.nn.batch_norm import updates_together
from seqca.nn.checks import check_map
from seqca.nn.cross_scale import attend_across_scales
from seqca.nn.upsampling import upsample
from seqca.tasks import check_task_name, get_task

from .backbone import create_backbone
from .evaluation import evaluation_view
from .fused_backbone import fuse_blocks
from .hub import HubNetwork

SCALES = range(len(NETWORK.strides))
COARSEST = SCALES[-1]
IMAGE_CHANNELS = 3


class NetworkOutput(NamedTuple):
    """Raw predictions of one forward pass on images (B, 3, H, W).

    Attributes:
        final: {task: (B, channels, H/4, W/4)}.
        deep: for deep supervision, the same at strides 4, 8, 16, 32, of auxiliary tasks too.
    """

    final: dict[str, Tensor]
    deep: tuple[dict[str, Tensor], ...]


class TaskFeatures(nn.Module):
    """The first features of every task at one scale, and the predictions that supervise them.

    Args:
        in_channels: channels of the input, the same for every task.
        channels: C of every task's map.
        out_channels: {task: channels of its prediction}.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: Mapping[str, int]) -> None:
        super().__init__()
        self.refinement = nn.ModuleDict(
            {
                task: nn.Sequential(BasicBlock(in_channels, channels), BasicBlock(channels, channels))
                for task in out_channels
            }
        )
        self.prediction = nn.ModuleDict({task: nn.Conv2d(channels, n, 1) for task, n in out_channels.items()})

    def forward(self, inputs: Mapping[str, Sequence[Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """{task: maps (B, C_j, H, W), in_channels in all} → features {task: (B, C, H, W)} and predictions."""
        features = {task: refine(inputs[task]) for task, refine in self.refinement.items()}
        return features, {task: predict(features[task]) for task, predict in self.prediction.items()}


class TaskHead(nn.Module):
    """From one task's features at all scales to its final prediction.

    Args:
        channels_per_scale: C_k, the finest scale first.
        out_channels: channels of the prediction.
        cross_scale: whether the scales exchange features first.
    """

    def __init__(self, channels_per_scale: list[int], out_channels: int, cross_scale: bool = True) -> None:
        super().__init__()
        self.attention = CrossScaleAttention(channels_per_scale) if cross_scale else None
        self.aggregation = FeatureAggregation(channels_per_scale, out_channels, attended=cross_scale)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps (B, C_k, H_k, W_k), finest first → (B, out_channels, H_0, W_0)."""
        (prediction,) = predict_together([self], [features])
        return prediction


def predict_together(heads: Sequence[TaskHead], features: Sequence[list[Tensor]]) -> list[Tensor]:
    """What the heads of several tasks predict, each from its own features: their scales exchange in common calls."""
    exchanges = [head.attention for head in heads if head.attention is not None]
    attended = attend_across_scales(exchanges, features) if exchanges else [None] * len(heads)
    return [head.aggregation(own, gathered) for head, own, gathered in zip(heads, features, attended, strict=True)]


class SequentialCrossAttentionNet(HubNetwork, nn.Module):
    """One image in, the prediction of every task out (Kim, Choi, Min, ICIP 2022, arXiv 2209.02518).

    Args:
        tasks: {name: output channels}, in order.
        auxiliary: further tasks, after those in the order. They take part in the exchange and in deep supervision, and
            have no final prediction.
        backbone: a timm model whose channels are multiples of 6, the heads of the self-attention stages.
        pretrained: ImageNet weights of the backbone: True downloads them, a path reads a file.
        drop_path: rate of the shifted window-attention blocks in training.
        cross_task: whether tasks exchange features at every scale. Without it the exchange is the identity.
        cross_scale: whether a task's scales exchange features. Without it the head aggregates the maps of the four
            scales alone. The two switches are the rows of an ablation; only the whole network has a published format.

    Raises:
        TypeError: tasks without channels, such as a list of names.
        ValueError: no task, a name twice, a name that no task can have, or channels below 1.
    """

    def __init__(
        self,
        tasks: Mapping[str, int],
        auxiliary: Mapping[str, int] | None = None,
        backbone: str = NETWORK.backbone,
        pretrained: bool | str | Path = False,
        drop_path: float = 0.2,
        cross_task: bool = True,
        cross_scale: bool = True,
    ) -> None:
        super().__init__()
        auxiliary = auxiliary or {}
        check_tasks(tasks, auxiliary)
        self.tasks, self.auxiliary = dict(tasks), dict(auxiliary)
        self.settings = {
            "tasks": self.tasks,
            "auxiliary": self.auxiliary,
            "backbone": backbone,
            "drop_path": drop_path,
            "cross_task": cross_task,
            "cross_scale": cross_scale,
        }
        self.class_names = {}
        every = self.tasks | self.auxiliary

        self.backbone = fuse_blocks(create_backbone(backbone, pretrained))
        backbone_channels = self.backbone.feature_info.channels()
        channels = [2 * c for c in backbone_channels]
        inputs = [own + coarser for own, coarser in zip(channels, [*channels[1:], 0], strict=True)]

        self.self_attention = nn.ModuleList(
            WindowSelfAttention(
                c, NETWORK.attention_depth, NETWORK.attention_heads, window=NETWORK.window, drop_path=drop_path
            )
            for c in backbone_channels
        )
        self.features = nn.ModuleList(TaskFeatures(inputs[k], channels[k], every) for k in SCALES)
        self.cross_task = nn.ModuleList(
            CrossTaskAttention(tuple(every), channels[k]) if cross_task else nn.Identity() for k in SCALES
        )
        self.propagation = nn.ModuleList(
            FeaturePropagation(tuple(every), channels[k]) for k in SCALES[1:]
        )  # entry k − 1 leads from scale k to scale k − 1
        self.heads = nn.ModuleDict({task: TaskHead(channels, n, cross_scale) for task, n in self.tasks.items()})

    def forward(self, images: Tensor) -> NetworkOutput:
        """Raw predictions.

        Args:
            images: (B, 3, H, W), normalised by the mean and deviation of ImageNet; H and W are multiples of 32.

        Raises:
            TypeError, ValueError: images of another dtype than the weights or of another shape.
        """
        check_map("images", images, IMAGE_CHANNELS, next(self.parameters(), None))
        if any(side % NETWORK.strides[-1] for side in images.shape[2:]):
            raise ValueError(
                f"images: got {images.shape[2]}×{images.shape[3]} pixels, expected multiples of {NETWORK.strides[-1]} "
                "(predict takes any size)"
            )
        with updates_together():
            return self._computed(images)

    def _computed(self, images: Tensor) -> NetworkOutput:
        # Concatenated by what reads them; the coarsest, which every task reads and keeps as its residual, once for all.
        maps = [[attention(x), x] for attention, x in zip(self.self_attention, self.backbone(images), strict=True)]
        exchanged: list[dict[str, Tensor]] = [{} for _ in SCALES]
        deep: list[dict[str, Tensor]] = [{} for _ in SCALES]
        coarsest = [torch.cat(maps[COARSEST], 1)]
        inputs = dict.fromkeys([*self.tasks, *self.auxiliary], coarsest)
        for k in reversed(SCALES):
            features, deep[k] = self.features[k](inputs)
            exchanged[k] = self.cross_task[k](features)
            if k > 0:
                height, width = maps[k - 1][0].shape[2:]
                propagated = self.propagation[k - 1](exchanged[k])
                inputs = {task: [*maps[k - 1], upsample(x, (height, width))] for task, x in propagated.items()}
        heads = [cast(TaskHead, head) for head in self.heads.values()]
        predictions = predict_together(heads, [[exchanged[k][task] for k in SCALES] for task in self.heads])
        return NetworkOutput(dict(zip(self.heads, predictions, strict=True)), tuple(deep))

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Full-size predictions in each task's own units (`seqca.tasks`), in evaluation mode whatever the present one.

        The network's mode and its running statistics are neither asked for nor changed, so that several threads may
        predict at once, with the results of one, and while another one trains, with the weights of that moment.

        Sides that are no multiples of 32 are filled up by repeating the last row and column, and the predictions are
        cropped back.

        Args:
            images: (B, 3, H, W) of any size, normalised by the mean and deviation of ImageNet.

        Returns:
            {task: its prediction at (H, W)}, for example metres (B, 1, H, W) or class indices (B, H, W).
        """
        check_map("images", images, IMAGE_CHANNELS, next(self.parameters(), None))
        decoders = {task: get_task(task).decode for task in self.tasks}
        height, width = images.shape[2:]
        stride = NETWORK.strides[-1]
        padded = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
        whole = padded.shape[2], padded.shape[3]
        final = evaluation_view(self)(padded).final
        return {task: decode(upsample(final[task], whole)[:, :, :height, :width]) for task, decode in decoders.items()}


def check_tasks(tasks: Mapping[str, int], auxiliary: Mapping[str, int]) -> None:
    for argument, entries in (("tasks", tasks), ("auxiliary", auxiliary)):
        if not isinstance(entries, Mapping):
            raise TypeError(f"{argument}: got {type(entries).__name__}, expected a mapping from names to channels")
    if not tasks:
        raise ValueError("tasks: got none, expected at least one")
    if twice := tasks.keys() & auxiliary.keys():
        raise ValueError(f"auxiliary: got {', '.join(sorted(twice))}, expected none of tasks")
    for argument, entries in (("tasks", tasks), ("auxiliary", auxiliary)):
        for task, channels in entries.items():
            check_task_name(argument, task)
            if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
                raise ValueError(f"{argument}[{task!r}]: got {channels!r} channels, expected a positive integer")
