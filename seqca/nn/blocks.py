"""Small building blocks of the network."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_fraction, check_map, check_positive, checked_maps
from .conv_norm import ConvNorm, conv_norm_relu, fusable


class BasicBlock(nn.Module):
    """relu(BN(conv3×3(relu(BN(conv3×3(x))))) + shortcut(x)) (He et al. 2016).

    The shortcut is the identity, or a 1×1 convolution and batch norm. It is one call of `seqca.ops.norm_relu`, which
    keeps the outputs of the 3×3 convolutions and nothing else. Where that does not compute what the layers would, since
    they have hooks, or their norms are in different modes, they are called one by one.

    Args:
        in_channels, out_channels: channels before and after.
        momentum: of the two 3×3 batch norms, in [0, 1].
        project: whether the shortcut is a convolution; by default where the channels change.
    """

    def __init__(self, in_channels: int, out_channels: int, momentum: float = 0.1, project: bool | None = None) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels)
        check_fraction(momentum=momentum)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels, momentum=momentum)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, momentum=momentum)
        self.shortcut: nn.Module = nn.Identity()
        if project or (project is None and in_channels != out_channels):
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """(B, in_channels, H, W), or maps that have as many channels together → (B, out_channels, H, W)."""
        return self._of_maps(checked_maps("x", x, self.conv1.in_channels, self.conv1.weight))

    def _of_maps(self, maps: Sequence[Tensor], first: Tensor | None = None, projection: Tensor | None = None) -> Tensor:
        """Of the concatenation of maps, with other weights of the two convolutions that read it, if they are given."""
        layers = [ConvNorm(self.conv1, self.bn1), ConvNorm(self.conv2, self.bn2)]
        projects = isinstance(self.shortcut, nn.Sequential)
        if projects:
            layers.append(ConvNorm(*cast(nn.Sequential, self.shortcut)))
        elif len(maps) > 1:
            maps = [torch.cat(list(maps), 1)]  # it is the residual
        if fusable(layers, *(() if projects else (self.shortcut,))):
            weights = [layer.conv.weight for layer in layers]
            weights[0] = weights[0] if first is None else first
            weights[-1] = weights[-1] if projection is None else projection
            return conv_norm_relu(maps, layers, None if projects else maps[0], projects, weights)
        x = torch.cat(list(maps), 1) if len(maps) > 1 else maps[0]
        hidden = F.relu(self.bn1(self.conv1(x) if first is None else F.conv2d(x, first, padding=1)))
        shortcut = self.shortcut(x) if projection is None else layers[-1].bn(F.conv2d(x, projection))
        return F.relu(self.bn2(self.conv2(hidden)) + shortcut)


class SqueezeExcitation(nn.Module):
    """Scales channels by sigmoid(W₂ relu(W₁ mean(x))) (Hu et al. 2018).

    Args:
        channels: C.
        reduction: C over the number of hidden units, which is rounded down.

    Raises:
        ValueError: fewer channels than `reduction`, which leaves no hidden unit.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        check_positive(channels=channels, reduction=reduction)
        if channels < reduction:
            raise ValueError(f"channels: got {channels}, expected at least {reduction} (reduction)")
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        check_map("x", x, self.squeeze.in_features, self.squeeze.weight)
        scale = self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()
        return x * scale[:, :, None, None]
