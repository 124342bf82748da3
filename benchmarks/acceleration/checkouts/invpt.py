"""InvPT, in its folder of https://github.com/prismformore/Multi-Task-Transformer.

Synchronised batch norm, which torch computes on a GPU alone, is batch norm here.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from seqca.configuration import NYUD_TASKS

from ..training import Size, Training, without_randomness
from .importing import importable
from .multi_task_transformer import LOSSES, PATCH, WIDTH, Settings, check_size, objective, vit_settings
from .nyud import batches

NAME = f"InvPT, ViT of {WIDTH} channels"
KINDS = ("invpt.attention", "invpt.predictions", "atrc.loss")
CLASSES = ("TransformerNet", "Attention", "SelfAttention", *LOSSES)
DECODER = 512
"""Channels of its decoder."""


def recognises(checkout: Path) -> bool:
    """Whether the file of the decoder is there."""
    return (checkout / "models" / "transformers" / "invpt.py").is_file()


def build(checkout: Path, tasks: Sequence[str], size: Size) -> Training:
    """Its TransformerNet and MultiTaskLoss with intermediate supervision, for tasks of NYUD-v2.

    Raises:
        SizeError: sides that its decoder cannot halve as often as it does.
    """
    check_size(size)
    importable(checkout)
    vit, decoder, invpt = (
        importlib.import_module(f"models.transformers.{name}") for name in ("vit", "transformer_decoder", "invpt")
    )
    network = importlib.import_module("models.transformer_net")
    for module in (decoder, invpt):
        vars(module)["BATCHNORM"] = nn.BatchNorm2d
    outputs = {task: NYUD_TASKS[task] for task in tasks}
    settings = Settings(
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
        backbone = vit.VisionTransformer(**vit_settings(size))
        heads = nn.ModuleDict({task: decoder.MLPHead(DECODER + 64, n) for task, n in outputs.items()})
        model = network.TransformerNet(settings, backbone, [WIDTH] * 4, heads)
    return Training(without_randomness(model), objective(settings, tasks), batches(tasks, size))
