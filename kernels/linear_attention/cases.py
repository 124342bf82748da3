"""Forward and backward on eight images, with the tokens of the network's scale that has so many channels.

Layouts: channels-last and contiguous, twelve maps in one tensor; pairs, the list of them as the network passes it for
four tasks, slices of the channels of contiguous maps; list, the same with maps of four sizes; across, a contiguous map
that attends to one of a quarter of the tokens, as across the network's scales. float32 is multiplied on tensor cores
only where torch's TF32 switch allows it, and here it does not.
"""

from itertools import compress

import torch
from torch import Tensor

from seqca.configuration import IMAGE, NETWORK

from ..compilation import CompiledCase
from . import backward, forward
from .parameters import class_of

_FINEST, *_ = NETWORK.tokens(*IMAGE)
TOKENS = dict(
    sorted({18: _FINEST, 60: _FINEST, **dict(zip(NETWORK.channels, NETWORK.tokens(*IMAGE), strict=True))}.items())
)
"""Tokens of an image at the scale that has so many channels; 18 and 60 channels at the finest, as of other networks."""

_BF16, _FP16, _FP32 = torch.bfloat16, torch.float16, torch.float32

_TESTED_ON = {
    (36, _BF16, "channels-last"): (80, 90, 100),
    (36, _BF16, "pairs"): (90,),
    (36, _FP16, "pairs"): (90,),
    (36, _FP32, "pairs"): (90,),
    (60, _BF16, "list"): (80, 90, 100),
    (36, _BF16, "across"): (90,),
    (288, _BF16, "pairs"): (80,),
    (18, _FP16, "contiguous"): (90,),
    (36, _FP32, "contiguous"): (90,),
    (60, _FP16, "channels-last"): (80,),
    (72, _BF16, "contiguous"): (80,),
    (144, _FP16, "channels-last"): (100,),
    (144, _BF16, "list"): (80, 90, 100),
    (288, _BF16, "contiguous"): (90,),
    (288, _FP32, "channels-last"): (80,),
}
"""Every number of channels, dtype, layout and compute capability occurs, the target shape on all.

So do the lists whose kernels have options of their own on some: lists take most registers.
"""


def _case(channels: int, dtype: torch.dtype, layout: str) -> CompiledCase:
    """One of the layouts above."""

    def tokens(size: int, *leading: int) -> Tensor:
        return torch.empty(8, *leading, size, channels, dtype=dtype, device="meta")

    def maps(size: int, *leading: int) -> Tensor:
        return torch.empty(8, *leading, channels, size, dtype=dtype, device="meta").mT

    def slices(which: slice, of: int) -> list[Tensor]:
        """Which of the maps that stand side by side in the channels of each task's."""
        sizes = [TOKENS[channels] // (4**task if layout == "list" else 1) for task in range(4)]
        joint = [torch.empty(8, of * channels, size, dtype=dtype, device="meta") for size in sizes]
        return [x.mT for task in joint for x in task.split(channels, 1)[which]]

    def run() -> None:
        size = TOKENS[channels]
        if layout in ("pairs", "list"):
            q, k, v = slices(slice(3), 6), slices(slice(3, 6), 6), slices(slice(3), 3)
            grad = slices(slice(1, 6, 2), 6)  # of the concatenation with the targets' own maps
        elif layout == "across":
            q, k, v, grad = ([maps(n)] for n in (size, size // 4, size // 4, size))
        else:
            make = tokens if layout == "channels-last" else maps
            q, k, v, grad = ([make(size, 12)] for _ in range(4))
        _, states = forward(q, k, v, 1e-12)
        backward(grad, q, k, v, states, 1e-12)

    of_network = channels in NETWORK.channels and layout in ("pairs", "contiguous")
    in_all = 8 * 12 * TOKENS[channels] if of_network else None
    tested_on = _TESTED_ON.get((channels, dtype, layout), ())
    return CompiledCase(f"C = {channels}, {layout}", dtype, run, tested_on, in_all)


_IN_ALL_DTYPES = [(c, dtype) for c in TOKENS for dtype in (_BF16, _FP16, _FP32)]

_SHAPES = (
    *((*case, layout) for case in _IN_ALL_DTYPES for layout in ("channels-last", "pairs")),
    *((c, _BF16, layout) for c in TOKENS for layout in ("contiguous", "across", "list")),
    (18, _FP16, "contiguous"),
    (36, _FP32, "contiguous"),
)

CASES = tuple(_case(*shape) for shape in _SHAPES)


def cases_of(dtype: torch.dtype, shapes: int) -> tuple[CompiledCase, ...]:
    """Those of a dtype and a class of shapes, see `parameters`."""
    chosen = [own == dtype and class_of(channels, channels, own) == shapes for channels, own, _ in _SHAPES]
    return tuple(compress(CASES, chosen))
