"""Queries and keys of a task's map at scale 0 for eight images, and a gradient laid out like them or channels-last."""

import torch

from seqca.configuration import IMAGE, NETWORK

from ..compilation import CompiledCase
from . import backward, forward

_CHANNELS = 2 * 3 * NETWORK.channels[0]
"""Channels of the queries and keys of a task's map in its three pairs, side by side."""

_SIZE = tuple(side // NETWORK.strides[0] for side in IMAGE)

_TESTED_ON = {(torch.bfloat16, "contiguous"): (90,), (torch.float32, "transposed gradient"): (80,)}


def _case(dtype: torch.dtype, layout: str) -> CompiledCase:
    """A case whose gradient is laid out in one of the two ways."""

    def run() -> None:
        y = forward(torch.empty(8, _CHANNELS, *_SIZE, dtype=dtype, device="meta"))
        order = torch.channels_last if layout == "transposed gradient" else torch.contiguous_format
        backward(torch.empty_like(y, memory_format=order), y)

    tokens = 8 * NETWORK.tokens(*IMAGE)[0]
    return CompiledCase(f"C = {_CHANNELS}, {layout}", dtype, run, _TESTED_ON.get((dtype, layout), ()), tokens)


CASES = tuple(
    _case(dtype, layout)
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for layout in ("contiguous", "transposed gradient")
)
