"""https://github.com/SimonVandenhende/Multi-Task-Learning-PyTorch: MTI-Net."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from torch import nn

from seqca.configuration import NYUD_TASKS

from ..training import Size, Training, without_randomness
from .importing import importable
from .nyud import COMMON_CLASSES, COMMON_KINDS, batches, criterion

NAME = "MTI-Net, HRNet-18"
KINDS = ("mti_net.predictions", "mti_net.head", *COMMON_KINDS)
CLASSES = ("HighResolutionFuse", "PADNet", "PADNetLoss", "MultiTaskModel", "SingleTaskModel", *COMMON_CLASSES)
CHANNELS = (18, 36, 72, 144)
"""Of the maps of its HRNet-18."""


def recognises(checkout: Path) -> bool:
    """Whether the file of the backbone is there, with heads that only aggregate."""
    file = checkout / "models" / "seg_hrnet.py"
    return file.is_file() and "cross_scale_attention" not in file.read_text()


def build(checkout: Path, tasks: Sequence[str], size: Size, channels: Sequence[int] = CHANNELS) -> Training:
    """Its MTINet on an HRNet-18, and MTINetLoss, for tasks of NYUD-v2; heads read so many channels."""
    importable(checkout)
    backbones, networks = importlib.import_module("models.seg_hrnet"), importlib.import_module("models.mti_net")
    outputs = {task: NYUD_TASKS[task] for task in tasks}
    both = SimpleNamespace(NAMES=list(tasks), NUM_OUTPUT=outputs)
    settings = SimpleNamespace(TASKS=both, AUXILARY_TASKS=both)
    configuration = yaml.safe_load((checkout / "models" / "model_info" / "hrnet_w18.yml").read_text())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = backbones.HighResolutionNet(configuration)
        heads = nn.ModuleDict({task: backbones.HighResolutionHead(channels, n) for task, n in outputs.items()})
        model = networks.MTINet(settings, backbone, list(channels), heads)
    return Training(without_randomness(model), criterion(tasks), batches(tasks, size))
