"""The self-attention stage of the published network."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqca.configuration import NETWORK

WINDOW = NETWORK.window


def with_fused_attention(net: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arguments that calls a network, whose window attention is fused meanwhile."""
    layers = [module for module in net.modules() if isinstance(module, WindowAttention)]

    def run(**arguments: Any) -> Any:
        for layer in layers:
            layer.fused = True
        try:
            return function(**arguments)
        finally:
            for layer in layers:
                layer.fused = False

    return run


class PatchEmbedding(nn.Module):
    """1×1 convolution, then layer norm over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 1)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, H, W, C)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with relative position bias (Liu et al. 2021)."""

    relative_position_index: Tensor
    fused = False
    """Whether torch's `scaled_dot_product_attention` computes it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        positions = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
        row, column = (positions[:, None] - positions + WINDOW - 1).unbind(2)
        self.register_buffer("relative_position_index", row * (2 * WINDOW - 1) + column)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, windows, tokens, C), mask (windows, 1, tokens, tokens) → (B, windows, tokens, C)."""
        batch, windows, tokens, channels = x.shape
        head = channels // self.heads
        q, k, v = self.qkv(x).view(batch, windows, tokens, 3, self.heads, head).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if self.fused:
            attended = fused_attention(q, k, v, bias[None] if mask is None else bias + mask)
        else:
            scores = (q * head**-0.5) @ k.mT + bias
            if mask is not None:
                scores = scores + mask
            attended = scores.softmax(-1) @ v
        return self.proj(attended.transpose(2, 3).reshape(x.shape))


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """(batch, windows, heads, tokens, d) each, bias (windows or 1, heads, tokens, tokens) → the shape of q.

    Torch's fused kernels take four dimensions.
    """
    mask = bias.to(q.dtype).repeat(len(q) if len(bias) > 1 else 1, 1, 1, 1)
    attended = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask)
    return attended.unflatten(0, q.shape[:2])


class WindowBlock(nn.Module):
    """x + attention(LN(x)) in windows that are shifted or not. `norm2` takes part in nothing."""

    def __init__(self, channels: int, heads: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C)."""
        height, width = x.shape[1:3]
        y = F.pad(self.norm1(x), (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        rows, columns = y.shape[1:3]
        mask = None
        if self.shift:
            y, mask = y.roll((-self.shift, -self.shift), (1, 2)), region_mask(rows, columns, self.shift, y)
        y = windows_to_map(self.attn(map_to_windows(y), mask), rows, columns)
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        return x + y[:, :height, :width]


def map_to_windows(x: Tensor) -> Tensor:
    """(B, H, W, C) → (B, windows, tokens, C)."""
    x = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def windows_to_map(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, windows, tokens, C) → (B, H, W, C)."""
    x = x.unflatten(2, (WINDOW, WINDOW)).unflatten(1, (rows // WINDOW, columns // WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def region_mask(rows: int, columns: int, shift: int, like: Tensor) -> Tensor:
    """−100 between tokens of different regions, else 0: (windows, 1, tokens, tokens)."""
    regions = torch.zeros(1, rows, columns, 1, device=like.device)
    bands = (slice(0, -WINDOW), slice(-WINDOW, -shift), slice(-shift, None))
    for i, vertical in enumerate(bands):
        for j, horizontal in enumerate(bands):
            regions[:, vertical, horizontal] = 3 * i + j
    of_windows = map_to_windows(regions)[0, :, :, 0]
    differ = of_windows[:, :, None] != of_windows[:, None, :]
    return differ[:, None].to(like.dtype) * -100


class SelfAttention(nn.Module):
    """ATT: patch embedding, window blocks, layer norm. Without drop path, which the benchmarks switch off."""

    def __init__(self, channels: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(channels)
        blocks = nn.Sequential(*(WindowBlock(channels, heads, i % 2 * (WINDOW // 2)) for i in range(depth)))
        self.layers = nn.Sequential(nn.Sequential(OrderedDict(blocks=blocks)))
        self.norm0 = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return self.norm0(self.layers(self.patch_embed(x))).permute(0, 3, 1, 2)
