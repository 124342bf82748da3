"""https://github.com/brdav/atrc: ATRC."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from seqca.configuration import NYUD_TASKS

from ..training import Size, Training, without_randomness
from .importing import importable
from .nyud import batches

NAME = "ATRC, HRNet-18"
KINDS = ("residual.basicblock", "residual.bottleneck", "atrc.exchange", "atrc.predictions", "atrc.loss")
CLASSES = (
    *("ATRCModule", "RelationalContextHead", "RelationalContextSearchHead", "FCNHead", "ConvBNReLU"),
    *("GlobalContextAttentionBlock", "LocalContextAttentionBlock", "LabelContextAttentionBlock"),
    *("CrossEntropyLoss", "BalancedBinaryCrossEntropyLoss", "L1Loss"),
    *("ClusterCrossEntropyLoss", "BinningCrossEntropyLoss"),
)
AUXILIARY = {"semseg": 40, "depth": 40, "normals": 40, "edge": 2}
"""Channels of the auxiliary predictions: depth in intervals, normals as the nearest of some directions."""


class Network(nn.Module):
    """Backbone and head, as its training step calls them."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Any:
        """Images (B, 3, H, W) → "final" and "aux" by task."""
        return self.head(self.backbone(images), images.shape[-2:], image=images)


class Objective(nn.Module):
    """Its criterion, which gives the total first."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, output: Any, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The total by this name."""
        return {"total": self.criterion(output, labels)[0]}


def recognises(checkout: Path) -> bool:
    """Whether the file of its head is there."""
    return (checkout / "src" / "model" / "heads" / "relationalcontext.py").is_file()


def build(checkout: Path, tasks: Sequence[str], size: Size) -> Training:
    """Its HRNet-18-S and RelationalContextHead, with global context between tasks and label context within each."""
    importable(checkout / "src")
    builder = importlib.import_module("model.builder")
    heads = importlib.import_module("model.heads.relationalcontext")
    genotype = {target: {source: 3 if source == target else 1 for source in tasks} for target in tasks}
    channels = {task: {"final": NYUD_TASKS[task], "aux": AUXILIARY[task]} for task in tasks}
    directions = F.normalize(torch.randn(AUXILIARY["normals"], 3, generator=Generator().manual_seed(0)), dim=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = builder.backbones.hrnetv2p_w18_s(pretrained=False)
        head = heads.RelationalContextHead(
            tasks=list(tasks),
            task_channel_mapping=channels,
            in_index=[0, 1, 2, 3],
            idx_to_planes={0: 18, 1: 36, 2: 72, 3: 144},
            atrc_genotype=genotype,
        )
    criterion = builder.get_criterion(list(tasks), ["final", "aux"], edge_pos_weight=0.95, normals_centroids=directions)
    return Training(without_randomness(Network(backbone, head)), Objective(criterion), batches(tasks, size))
