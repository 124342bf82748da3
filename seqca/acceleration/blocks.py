"""Residual blocks of HRNet and ResNet (He et al. 2016): `BasicBlock` and `Bottleneck`, as code bases copy them.

relu(BN(conv(… relu(BN(conv(x))))) + shortcut(x)) is what `seqca.ops.norm_relu` computes, which keeps the outputs of the
convolutions and computes what lies between them again. Where some of a block's norms are in training and others in
evaluation mode, the original forward runs.

On a CPU the operator makes channels-last maps of contiguous ones. A block returns what the original would: code behind
it may call `view`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from seqca.nn.conv_norm import ConvNorm, conv_norm_relu, fusable

from .fingerprint import matches
from .replacement import Replacement, register

FINGERPRINTS = {
    "BasicBlock": ("4ebf45d9db2e2491", "3a2cb5ea7b6416c2"),
    "Bottleneck": ("98f7fcc56e341539", "0b2ae2b6fd3c59e4"),
}
"""By class: of ResNet, torchvision's and copies of it, and of HRNet."""


class FusedBlock(nn.Module):
    """A block in one call."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W')."""
        block: Any = self
        layers = block_layers(block)
        if not fusable(layers, block.relu):
            return super().forward(x)
        residual = x if block.downsample is None else None
        return _laid_out_as(x, conv_norm_relu([x], layers, residual, projection=residual is None))


def block_layers(block: Any) -> list[ConvNorm]:
    """Those of a block behind each other, then the shortcut's, if it has any."""
    names = ("1", "2", "3") if hasattr(block, "conv3") else ("1", "2")
    layers = [ConvNorm(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in names]
    return layers if block.downsample is None else [*layers, ConvNorm(*block.downsample)]


def against_block(block: Any) -> str | None:
    """Why a module is no block that `seqca.ops.norm_relu` computes, or None."""
    name = type(block).__name__
    if not matches(block, name, FINGERPRINTS.get(name, ())):
        return f"is a {name} that does something else than the one that is known"
    shortcut = block.downsample
    if shortcut is not None and (type(shortcut) is not nn.Sequential or len(shortcut) != 2):
        return "downsample is no Sequential of a convolution and a norm"
    if not fusable(block_layers(block), block.relu):
        return "a layer is no plain convolution, batch norm or ReLU, or its norms differ in eps or mode"
    return None


def _laid_out_as(x: Tensor, output: Tensor) -> Tensor:
    pixel_by_pixel = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return output if pixel_by_pixel else output.contiguous()


BASIC_BLOCK, BOTTLENECK = (
    register(Replacement(f"residual.{name.lower()}", name, fingerprints, FusedBlock, against_block))
    for name, fingerprints in FINGERPRINTS.items()
)
