"""Forward and backward on eight images: maps of the network's backbone, and a feature pyramid of 256 channels each.

The backbone's go to as many channels as they have together, the pyramid's, more than one product takes, to 256.
float32 is multiplied as three TF32 products, nearly as exact as float32, unless torch's TF32 switch asks for one.
"""

import torch

from seqca.configuration import IMAGE, NETWORK

from ..compilation import CompiledCase
from . import backward, forward

_BF16, _FP16, _FP32 = torch.bfloat16, torch.float16, torch.float32

_TESTED_ON = {
    ("backbone", _BF16): (80, 90, 100),
    ("backbone", _FP32): (100,),
    ("FPN", _BF16): (90,),
    ("FPN", _FP32): (80,),
}
"""Both pyramids and every compute capability occur."""


def _case(name: str, dtype: torch.dtype) -> CompiledCase:
    """One of the pyramids."""
    by_scale = NETWORK.backbone_channels if name == "backbone" else (256,) * len(NETWORK.strides)
    outputs = sum(by_scale) if name == "backbone" else 256

    def run() -> None:
        sizes = [(IMAGE[0] // stride, IMAGE[1] // stride) for stride in NETWORK.strides]
        maps = [torch.empty(8, c, *s, dtype=dtype, device="meta") for c, s in zip(by_scale, sizes, strict=True)]
        weight = torch.empty(outputs, sum(by_scale), 1, 1, dtype=dtype, device="meta")
        bias = torch.empty(outputs, dtype=dtype, device="meta")
        order = list(range(len(maps)))
        backward(forward(maps, order, weight, bias), maps, order, weight, bias)

    tokens = 8 * NETWORK.tokens(*IMAGE)[0] if name == "backbone" else None
    return CompiledCase(f"{name}, C = {outputs}", dtype, run, _TESTED_ON.get((name, dtype), ()), tokens)


CASES = tuple(_case(name, dtype) for dtype in (_BF16, _FP16, _FP32) for name in ("backbone", "FPN"))
