"""timm's HRNets and ResNets with stem, residual blocks and upsampling of ours, their parameters and keys unchanged."""

from collections.abc import Sequence
from typing import cast

from timm.models import FeatureInfo
from timm.models.hrnet import HighResolutionNetFeatures
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from seqca.nn.conv_norm import ConvNorm, conv_norm_relu, fusable
from seqca.nn.upsampling import upsample


def fuse_blocks(backbone: nn.Module) -> nn.Module:
    """Makes the stem and the residual blocks of a timm model calls of `seqca.ops.norm_relu`, and its upsampling ours.

    A module gets the class below in place of its own; where that cannot compute what its layers would (other layers,
    hooks on them, norms in different modes), it does as before.
    """
    for module in backbone.modules():
        if type(module) in _FUSED:
            module.__class__ = _FUSED[type(module)]
    return backbone


class FusedBasicBlock(BasicBlock):
    """Two 3×3 convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W')."""
        idle = (self.drop_block, self.aa)
        layers = [(self.conv1, self.bn1), (self.conv2, self.bn2)]
        result = _residual_block(self, x, layers, (self.act1, self.act2, *idle))
        return super().forward(x) if result is None else result


class FusedBottleneck(Bottleneck):
    """A 3×3 convolution between two 1×1 ones."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W')."""
        idle = (self.drop_block, self.aa)
        layers = [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]
        result = _residual_block(self, x, layers, (self.act1, self.act2, self.act3, *idle))
        return super().forward(x) if result is None else result


class FusedHRNet(HighResolutionNetFeatures):
    """The stem's two convolutions."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) → maps at the strides asked for."""
        layers = [(self.conv1, self.bn1), (self.conv2, self.bn2)]
        indices = cast(FeatureInfo, self.feature_info).out_indices
        if 0 in indices or self.incre_modules is not None or not fusable(layers, self.act1, self.act2):
            return super().forward(x)
        maps = self.stages(conv_norm_relu([x], [ConvNorm(*layer) for layer in layers]))
        return [maps[i - 1] for i in indices]


class FusedUpsample(nn.Upsample):
    """Bilinear upsampling of the coarser branches where they are fused."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, factor · h, factor · w)."""
        factor = self.scale_factor
        if self.mode != "bilinear" or self.align_corners or not isinstance(factor, (int, float)) or factor % 1:
            return super().forward(x)
        return upsample(x, (int(factor) * x.shape[2], int(factor) * x.shape[3]))


_FUSED: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: FusedBasicBlock,
    Bottleneck: FusedBottleneck,
    HighResolutionNetFeatures: FusedHRNet,
    nn.Upsample: FusedUpsample,
}


def _residual_block(
    block: BasicBlock | Bottleneck,
    x: Tensor,
    layers: Sequence[tuple[nn.Module, nn.Module]],
    others: Sequence[nn.Module | None],
) -> Tensor | None:
    """The output of a block, or None where it has to compute that itself."""
    projects = block.downsample is not None
    if projects:
        if type(block.downsample) is not nn.Sequential or len(block.downsample) != 2:
            return None
        convolution, norm = block.downsample
        layers = [*layers, (convolution, norm)]
    idle = [module for module in others if module is not None]
    if block.se is not None or block.drop_path is not None or not fusable(layers, *idle):
        return None
    return conv_norm_relu([x], [ConvNorm(*layer) for layer in layers], None if projects else x, projects)  # type: ignore[arg-type]
