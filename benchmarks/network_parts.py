"""The parts of the network by which launches and time are told."""

import re

from torch import nn
from torch.utils.hooks import RemovableHandle

from .harness.parts import Parts

PARTS = {
    "backbone": "backbone",
    "window attention": r"swTransform\d|self_attention\.\d",
    "initial features": r"scale_\d|features\.\d",
    "cross-task attention": r"distillation_scale_\d|cross_task\.\d",
    "propagation": r"fpm_scale_\d|propagation\.\d",
}
"""Modules of both networks, by name. What lies between them is a part too, and what follows the last one the heads."""
LAST = r"distillation_scale_0|cross_task\.0"
BETWEEN, HEADS, LOSSES = "joined maps", "heads", "losses"


def follow(net: nn.Module, parts: Parts) -> list[RemovableHandle]:
    """Lets `parts` know where parts of the network, ours or the published one, begin and end; the hooks that do."""
    handles = []
    for name, module in net.named_modules():
        for part, pattern in PARTS.items():
            if re.fullmatch(pattern, name):
                behind = HEADS if re.fullmatch(LAST, name) else BETWEEN
                before = module.register_forward_pre_hook(lambda _, maps, part=part: parts.begin(part, maps))
                after = module.register_forward_hook(lambda _, __, out, behind=behind: parts.begin(behind, out))
                handles += [before, after]
    return handles
