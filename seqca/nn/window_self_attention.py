"""The self-attention stage."""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from seqca.configuration import NETWORK
from seqca.ops import window_attention

from .checks import check_fraction, check_map, check_positive


class WindowBlock(nn.Module):
    """x + drop_path(attention(LN(x))) inside windows, and nothing more: there is no MLP.

    The buffers `unused_weight` and `unused_bias` take part in no computation. Checkpoints in the published format hold
    a second layer norm for every block; the buffers carry it, so that such a file can be written back as it was.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.projection = nn.Linear(channels, channels)
        self.drop_path = DropPath(drop_path)
        self.register_buffer("unused_weight", torch.ones(channels))
        self.register_buffer("unused_bias", torch.zeros(channels))
        for parameter in (self.qkv.weight, self.projection.weight, self.bias_table):
            nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.projection.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C)."""
        attended = window_attention(
            x,
            self.norm.weight,
            self.norm.bias,
            self.qkv.weight,
            self.qkv.bias,
            self.bias_table,
            self.projection.weight,
            self.projection.bias,
            window=self.window,
            shift=self.shift,
            eps=self.norm.eps,
        )
        return x + self.drop_path(attended)


class WindowSelfAttention(nn.Module):
    """Patch embedding of size 1, window-attention blocks, layer norm (Liu et al. 2021).

    Args:
        channels: C, a multiple of `heads`.
        depth: number of blocks; every second one is shifted by half a window.
        heads: attention heads.
        window: side of a window in tokens.
        drop_path: rate of the last block, in [0, 1]; the rates rise linearly from 0.

    Raises:
        TypeError, ValueError: a number that is not positive, `channels` that are no multiple of `heads`, or a rate
            that is none.
    """

    def __init__(
        self, channels: int, depth: int, heads: int, window: int = NETWORK.window, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        check_positive(channels=channels, depth=depth, heads=heads, window=window)
        check_fraction(drop_path=drop_path)
        if channels % heads:
            raise ValueError(f"channels: got {channels}, expected a multiple of heads ({heads})")
        self.embedding = nn.Conv2d(channels, channels, 1)
        self.embedding_norm = nn.LayerNorm(channels)
        self.blocks = nn.Sequential(
            *(
                WindowBlock(
                    channels,
                    heads,
                    window,
                    shift=window // 2 if i % 2 else 0,
                    drop_path=drop_path * i / max(depth - 1, 1),
                )
                for i in range(depth)
            )
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        check_map("x", x, self.embedding.in_channels, self.embedding.weight)
        tokens = self.embedding_norm(self.embedding(x).permute(0, 2, 3, 1))
        return self.norm(self.blocks(tokens)).permute(0, 3, 1, 2)
