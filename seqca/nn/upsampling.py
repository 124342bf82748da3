"""Bilinear upsampling of maps, on a GPU as two matrix products.

There torch's kernel lets a thread go through all images and channels of one pixel, of which there are few, and its
gradient adds up by atomics in no fixed order; under autocast it runs in float32. Products do the same in the maps' own
dtype, in a fixed order. Where sides grow by a power of two the weights are odd multiples of a power of two, exact even
in bfloat16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqca.ops.aten.interpolation import interpolation
from seqca.ops.shared.autocast import to_autocast_dtype

_INTERPOLATES = ("cpu",)
"""Devices on which torch's own is as fast."""

_MOST = 64
"""Factor up to which weights have eight bits, as many as bfloat16 holds."""


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (B, C, h, w) at `size` (H, W), as `F.interpolate` with mode bilinear and align_corners=False has it.

    On a GPU it has the autocast dtype under autocast, where that would compute and return float32.
    """
    sides = list(zip(x.shape[2:], size, strict=True))
    if x.device.type in _INTERPOLATES or not all(_exact(*side) for side in sides):
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    (x,) = to_autocast_dtype([x])
    rows, columns = (_matrix(cells, pixels, x.dtype, x.device) for cells, pixels in sides)
    wide = (x.reshape(-1, x.shape[3]) @ columns.mT).view(-1, x.shape[2], size[1])
    return (rows.expand(len(wide), -1, -1) @ wide).view(*x.shape[:2], *size)


def _exact(cells: int, pixels: int) -> bool:
    """Whether an axis grows by a power of two whose weights every dtype holds."""
    factor, rest = divmod(pixels, cells)
    return rest == 0 and 0 < factor <= _MOST and factor & (factor - 1) == 0


def _matrix(cells: int, pixels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weights (pixels, cells) of an axis, made once, where something is computed and in memory that stays."""
    if torch.compiler.is_compiling():
        return interpolation(cells, pixels, device).to(dtype)
    key = (cells, pixels, dtype, device)
    if key in _known:
        return _known[key]
    with torch.inference_mode(False):  # or no later pass could differentiate through what is kept
        weights = interpolation(cells, pixels, device).to(dtype)
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    if type(weights) is Tensor and not capturing:  # neither of a mode without values nor in a graph's own memory
        _known[key] = weights
    return weights


_known: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}
