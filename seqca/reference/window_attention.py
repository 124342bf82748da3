"""Self-attention inside shifted windows, with relative position bias: plain mathematics."""

import torch
import torch.nn.functional as F
from torch import Tensor


def relative_position_index(window: int, device: torch.device | None = None) -> Tensor:
    """Row of the bias table for every (query, key) pair of a window, (window², window²) int64.

    The index is (Δy + window − 1)·(2·window − 1) + (Δx + window − 1), Δ = query minus key.
    """
    axis = torch.arange(window, device=device)
    positions = torch.cartesian_prod(axis, axis)
    delta = positions[:, None] - positions[None] + window - 1
    return delta[..., 0] * (2 * window - 1) + delta[..., 1]


def relative_position_bias(table: Tensor, window: int) -> Tensor:
    """`table[relative_position_index(window)]` by head, (heads, window², window²), without the index.

    Along an axis the row of query i and key j is i + (window − 1 − j): that of a window that slides, seen backwards.
    """
    rows = table.unflatten(0, (2 * window - 1, -1)).unfold(0, window, 1).unfold(1, window, 1)
    return rows.flip((3, 4)).permute(2, 0, 1, 3, 4).flatten(3).flatten(1, 2)


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) with H, W multiples of `window` → (B, H·W / window², window², C), row by row."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(batch, -1, window * window, channels)


def join_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `split_windows`."""
    batch, _, tokens, channels = windows.shape
    window = int(tokens**0.5)
    x = windows.view(batch, height // window, width // window, window, window, channels)
    return x.transpose(2, 3).reshape(batch, height, width, channels)


def region_bias(height: int, width: int, window: int, shift: int, like: Tensor) -> Tensor:
    """−100 between tokens that only the cyclic shift made neighbours, else 0; (windows, window², window²).

    The regions are the 3×3 combinations of the bands [0, n − window), [n − window, n − shift), [n − shift, n). Within a
    window, which divides n, only the last two occur together.
    """

    def in_last_band(size: int) -> Tensor:
        return torch.arange(size, device=like.device) >= size - shift

    regions = in_last_band(height)[:, None] * 2 + in_last_band(width)
    regions = split_windows(regions[None, :, :, None], window)[0, :, :, 0]
    return ((regions[:, :, None] != regions[:, None, :]) * -100.0).to(like.dtype)


def window_attention(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    bias_table: Tensor,
    projection_weight: Tensor,
    projection_bias: Tensor,
    *,
    window: int = 7,
    shift: int = 0,
    eps: float = 1e-5,
) -> Tensor:
    """Layer norm, then multi-head attention inside windows (Liu et al. 2021, "Swin Transformer", section 3.2).

    The map is zero-padded at the right and the bottom to a multiple of the window, after the norm; padding tokens are
    keys like any other. The residual is the caller's.

    Args:
        x: (B, H, W, C).
        norm_weight, norm_bias: layer norm over channels, (C,).
        qkv_weight, qkv_bias: (3C, C), (3C,); outputs are ordered (q, k, v; head; channel of the head).
        bias_table: relative position bias, ((2·window − 1)², heads).
        projection_weight, projection_bias: output layer, (C, C), (C,).
        window: side of a window in tokens.
        shift: cyclic shift in tokens, 0 ≤ shift < window, whatever the size of the map.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, channels = x.shape
    heads = bias_table.shape[1]
    normed = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps)
    rows, columns = ((side + window - 1) // window * window for side in (height, width))
    padded = F.pad(normed, (0, 0, 0, columns - width, 0, rows - height))
    if shift:
        padded = padded.roll((-shift, -shift), (1, 2))

    qkv = F.linear(split_windows(padded, window), qkv_weight, qkv_bias)
    qkv = qkv.view(batch, -1, window * window, 3, heads, channels // heads)
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, tokens, channels of a head)

    scores = (q * (channels // heads) ** -0.5) @ k.mT + relative_position_bias(bias_table, window)
    if shift:
        scores = scores + region_bias(rows, columns, window, shift, scores)[:, None]
    attended = (scores.softmax(-1) @ v).transpose(2, 3).reshape(batch, -1, window * window, channels)

    projected = join_windows(F.linear(attended, projection_weight, projection_bias), rows, columns)
    if shift:
        projected = projected.roll((shift, shift), (1, 2))
    return projected[:, :height, :width]
