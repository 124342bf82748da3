"""Queries and keys of a task's map at scale 0 for eight images, and a gradient laid out like them or channels-last."""

import torch

from ..compilation import CompiledCase
from . import backward, forward

_TESTED_ON = {(torch.bfloat16, "contiguous"): (90,), (torch.float32, "transposed gradient"): (80,)}


def _case(dtype: torch.dtype, layout: str) -> CompiledCase:
    """With one of the two gradients."""

    def run() -> None:
        y = forward(torch.empty(8, 216, 120, 160, dtype=dtype, device="meta"))
        order = torch.channels_last if layout == "transposed gradient" else torch.contiguous_format
        backward(torch.empty_like(y, memory_format=order), y)

    return CompiledCase(f"C = 216, {layout}", dtype, run, _TESTED_ON.get((dtype, layout), ()))


CASES = tuple(
    _case(dtype, layout)
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for layout in ("contiguous", "transposed gradient")
)
