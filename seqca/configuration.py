"""The facts of the network that more than one part of the package needs, stated once."""

from typing import NamedTuple


class Configuration(NamedTuple):
    """What makes the network the one of the paper (Kim, Choi, Min, ICIP 2022), apart from its tasks.

    Every tuple has an entry for each scale, the finest first.
    """

    backbone: str
    """Name of the timm model."""
    strides: tuple[int, ...]
    """Pixels of the image for one of a map, down and across."""
    backbone_channels: tuple[int, ...]
    """c_k, channels of the backbone's maps."""
    attention_depth: int
    """Blocks of a self-attention stage."""
    attention_heads: int
    propagation_heads: int
    """Of the self-attention in the propagation to the next finer scale."""
    window: int
    """Side of an attention window, in tokens."""

    @property
    def channels(self) -> tuple[int, ...]:
        """C_k, channels of a task's map: those of the backbone's map and of the self-attention in front of it."""
        return tuple(2 * c for c in self.backbone_channels)

    def tokens(self, height: int, width: int) -> tuple[int, ...]:
        """Pixels of the maps of an image."""
        return tuple(height // stride * (width // stride) for stride in self.strides)


NETWORK = Configuration(
    backbone="hrnet_w18_small_v2",
    strides=(4, 8, 16, 32),
    backbone_channels=(18, 36, 72, 144),
    attention_depth=2,
    attention_heads=6,
    propagation_heads=4,
    window=7,
)

IMAGE = (480, 640)
"""Height and width of the images that `explain`, tables of resources and benchmarks speak of: those of NYUD-v2."""

NYUD_TASKS = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
"""Their tasks, and the channels of the predictions."""
