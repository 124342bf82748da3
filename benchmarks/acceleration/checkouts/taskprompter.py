"""TaskPrompter on a ViT, in its folder of https://github.com/prismformore/Multi-Task-Transformer."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from seqca.configuration import NYUD_TASKS

from ..training import Size, Training, without_randomness
from .importing import importable
from .multi_task_transformer import LOSSES, WIDTH, Settings, check_size, objective, vit_settings
from .nyud import batches

NAME = f"TaskPrompter, ViT of {WIDTH} channels"
KINDS = ("invpt.prompter", "invpt.predictions", "atrc.loss")
CLASSES = ("TaskPrompterWrapper", "TaskPrompter", "Block", "Attention", "WindowAttention", *LOSSES)
DECODER = 288
"""Channels of the features of tasks: three quarters of the ViT's, as in its configuration."""
WINDOWS = 16
"""In which prompts attend to channels."""


def recognises(checkout: Path) -> bool:
    """Whether the file of the network is there."""
    return (checkout / "models" / "transformers" / "taskprompter.py").is_file()


def build(checkout: Path, tasks: Sequence[str], size: Size) -> Training:
    """Its TaskPrompterWrapper and MultiTaskLoss, for tasks of NYUD-v2.

    Raises:
        SizeError: sides whose tokens are not parted into its windows.
    """
    check_size(size)
    importable(checkout)
    transformer = importlib.import_module("models.transformers.taskprompter")
    wrapper = importlib.import_module("models.taskprompter_wrapper")
    outputs = {task: NYUD_TASKS[task] for task in tasks}
    settings = Settings(
        TASKS=SimpleNamespace(NAMES=list(tasks), NUM_OUTPUT=outputs),
        prompt_len=1,
        embed_dim=DECODER,
        final_embed_dim=DECODER,
        use_ctr=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = transformer.TaskPrompter(settings, chan_nheads=WINDOWS, **vit_settings(size))
        heads = nn.ModuleDict({task: transformer.ConvHead(DECODER, n) for task, n in outputs.items()})
        model = wrapper.TaskPrompterWrapper(settings, backbone, heads)
    return Training(without_randomness(model), objective(settings, tasks), batches(tasks, size))
