"""Small building blocks of the network."""

from collections.abc import Sequence

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
        maps = checked_maps("x", x, self.conv1.in_channels, self.conv1.weight)
        layers, projects = self._layers(), isinstance(self.shortcut, nn.Sequential)
        if not projects and len(maps) > 1:
            maps = [torch.cat(list(maps), 1)]  # it is the residual
        if fusable(layers, *(() if projects else (self.shortcut,))):
            return conv_norm_relu(maps, layers, None if projects else maps[0], projects)
        return self._one_by_one(maps)

    def _layers(self) -> list[ConvNorm]:
        """The convolutions, that of the shortcut last, with their norms."""
        layers = [ConvNorm(self.conv1, self.bn1), ConvNorm(self.conv2, self.bn2)]
        if isinstance(self.shortcut, nn.Sequential):
            layers.append(ConvNorm(*self.shortcut))
        return layers

    def _one_by_one(self, maps: Sequence[Tensor], parameters: Sequence[Sequence[Tensor]] | None = None) -> Tensor:
        """Of the concatenation of maps; the convolutions that read it have other weights, if parameters are given."""
        x = torch.cat(list(maps), 1) if len(maps) > 1 else maps[0]
        if parameters is None:
            hidden, shortcut = self.conv1(x), self.shortcut(x)
        else:
            hidden = F.conv2d(x, parameters[0][0], padding=1)
            shortcut = self._layers()[-1].bn(F.conv2d(x, parameters[-1][0]))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(hidden)))) + shortcut)


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


def excitations(modules: Sequence[SqueezeExcitation], x: Tensor) -> list[Tensor]:
    """By what modules of the same channels scale those of a map, (B, C, 1, 1) each, by common products.

    Forward hooks of the modules and of their layers are not run.
    """
    squeezes, excites = [module.squeeze for module in modules], [module.excite for module in modules]
    weight, bias = torch.cat([layer.weight for layer in squeezes]), torch.cat([layer.bias for layer in squeezes])
    hidden = F.relu(F.linear(x.mean((2, 3)), weight, bias)).unflatten(1, (len(modules), -1)).transpose(0, 1)
    weight, bias = torch.stack([layer.weight for layer in excites]), torch.stack([layer.bias for layer in excites])
    return list(torch.baddbmm(bias[:, None], hidden, weight.mT).sigmoid()[..., None, None].unbind())
