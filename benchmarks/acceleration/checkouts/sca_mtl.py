"""https://github.com/kimsunkyung/SCA_MTL: the code of the paper's authors.

Its `get_model` hands 18, 36, 72 and 144 channels to heads and blocks that read twice as many, since a change of October
2022; so the network is put together here as it was before.
"""

from collections.abc import Sequence
from pathlib import Path

from ...cases.shapes import CHANNELS
from ..training import Size, Training
from . import mti_net
from .nyud import COMMON_CLASSES, COMMON_KINDS

NAME = "SCA_MTL"
KINDS = ("sca_mtl.network", "sca_mtl.cross_task", "sca_mtl.head", *COMMON_KINDS)
CLASSES = ("GlobalContextAttentionBlock", "ConvBNReLU", "WindowAttention", *COMMON_CLASSES)


def recognises(checkout: Path) -> bool:
    """Whether the file of the backbone is there and has heads with attention between scales."""
    file = checkout / "models" / "seg_hrnet.py"
    return file.is_file() and "cross_scale_attention0" in file.read_text()


def build(checkout: Path, tasks: Sequence[str], size: Size) -> Training:
    """Its MTINet and MTINetLoss for tasks of NYUD-v2; drop path is off."""
    return mti_net.build(checkout, tasks, size, CHANNELS)
