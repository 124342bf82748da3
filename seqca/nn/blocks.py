"""Small building blocks of the network."""

import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_fraction, check_map, check_positive


class BasicBlock(nn.Module):
    """relu(BN(conv3×3(relu(BN(conv3×3(x))))) + shortcut(x)) (He et al. 2016).

    The shortcut is the identity, or a 1×1 convolution and batch norm.

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H, W)."""
        check_map("x", x, self.conv1.in_channels, self.conv1.weight)
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


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
