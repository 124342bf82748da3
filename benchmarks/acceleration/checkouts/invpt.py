"""https://github.com/prismformore/Multi-Task-Transformer: InvPT, in its folder of that name.

On a ViT of 384 channels, so that a CPU can train it; the published one has 1,024. Synchronised batch norm, which torch
computes on a GPU alone, is batch norm.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from seqca.configuration import NYUD_TASKS

from ...harness.results import ResultsError
from ..training import Size, Training, without_randomness
from .importing import importable
from .nyud import batches

WIDTH, DEPTH, HEADS, PATCH = 384, 12, 6, 16
DECODER = 512


class Objective(nn.Module):
    """Its criterion for all tasks."""

    def __init__(self, criterion: nn.Module, tasks: Sequence[str]) -> None:
        super().__init__()
        self.criterion, self.tasks = criterion, tasks

    def forward(self, output: Any, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses by name, the total among them."""
        return self.criterion(output, labels, tasks=self.tasks)


def recognises(checkout: Path) -> bool:
    """Whether the file of the decoder is there."""
    return (checkout / "models" / "transformers" / "invpt.py").is_file()


def build(checkout: Path, tasks: Sequence[str], size: Size) -> Training:
    """Its TransformerNet and MultiTaskLoss with intermediate supervision, for tasks of NYUD-v2.

    Raises:
        ResultsError: sides that its decoder cannot halve as often as it does.
    """
    if size.height % 64 or size.width % 64:
        raise ResultsError(f"size: got {size.height}×{size.width}, expected multiples of 64, such as 448×576")
    importable(checkout)
    vit, decoder, invpt = (
        importlib.import_module(f"models.transformers.{name}") for name in ("vit", "transformer_decoder", "invpt")
    )
    network, losses, schemes = map(
        importlib.import_module, ("models.transformer_net", "losses.loss_functions", "losses.loss_schemes")
    )
    for module in (decoder, invpt):
        vars(module)["BATCHNORM"] = nn.BatchNorm2d
    outputs = {task: NYUD_TASKS[task] for task in tasks}
    settings = SimpleNamespace(
        TASKS=SimpleNamespace(NAMES=list(tasks), NUM_OUTPUT=outputs),
        embed_dim=DECODER,
        PRED_OUT_NUM_CONSTANT=64,
        mtt_resolution_downsample_rate=2,
        spatial_dim=[[size.height // PATCH, size.width // PATCH]] * 4,
        backbone_channels=[WIDTH] * 4,
        intermediate_supervision=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = vit.VisionTransformer(
            select_list=range(3, DEPTH, 3),
            img_size=(size.height, size.width),
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
        )
        heads = nn.ModuleDict({task: decoder.MLPHead(DECODER + 64, n) for task, n in outputs.items()})
        model = network.TransformerNet(settings, backbone, [WIDTH] * 4, heads)
    makers = {
        "semseg": losses.CrossEntropyLoss,
        "depth": losses.L1Loss,
        "normals": lambda: losses.L1Loss(normalize=True),
        "edge": lambda: losses.BalancedBinaryCrossEntropyLoss(pos_weight=0.95),
    }
    weights = {"semseg": 1.0, "depth": 1.0, "normals": 10.0, "edge": 50.0}
    inner = nn.ModuleDict({task: makers[task]() for task in tasks})
    criterion = schemes.MultiTaskLoss(settings, list(tasks), inner, {task: weights[task] for task in tasks})
    return Training(without_randomness(model), Objective(criterion, list(tasks)), batches(tasks, size))
