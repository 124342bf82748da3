"""Labels of eight 480×640 images and predictions at stride 4, forward and, where a gradient is needed, backward.

Every width of the tiles and every loss. float32 is multiplied as three TF32 products, nearly as exact as float32,
unless torch's TF32 switch asks for one.
"""

import torch

from seqca.configuration import IMAGE, NETWORK

from ..compilation import CompiledCase
from . import backward, forward

CLASSES = (13, 21, 40, 100, 200)
"""A number of classes for each width of the tiles."""

_SIZE = tuple(side // NETWORK.strides[0] for side in IMAGE)

_BF16, _FP16, _FP32 = torch.bfloat16, torch.float16, torch.float32

_TESTED_ON = {
    ("cross_entropy", 13, _FP16, True): (90,),
    ("cross_entropy", 21, _FP16, True): (100,),
    ("cross_entropy", 40, _BF16, True): (80, 90, 100),
    ("cross_entropy", 100, _FP32, True): (100,),
    ("cross_entropy", 200, _FP32, True): (80,),
    ("unit_l1", 3, _BF16, True): (80,),
    ("l1", 1, _FP32, True): (90,),
    ("balanced_bce", 1, _BF16, True): (80,),
    ("two_class", 2, _FP16, True): (100,),
    ("cross_entropy", 40, _BF16, False): (90,),
}
"""Every width, kind, dtype and compute capability occurs, the network's classes on all."""


def _case(kind: str, channels: int, dtype: torch.dtype, gradient: bool = True) -> CompiledCase:
    """One loss and number of classes or values."""

    def run() -> None:
        prediction = torch.empty(8, channels, *_SIZE, dtype=dtype, device="meta")
        target = torch.empty(8, 1 if kind == "two_class" else channels, *IMAGE, device="meta")
        if kind == "cross_entropy":
            target = target[:, 0].long()
        _, kept, divisor = forward(prediction, target, kind, 255.0, None, gradient)
        if gradient:
            backward(torch.empty((), device="meta"), prediction, kept, divisor)

    shape = f"C = {channels}, {kind}" + ("" if gradient else ", no gradient")
    return CompiledCase(shape, dtype, run, _TESTED_ON.get((kind, channels, dtype, gradient), ()))


_OTHERS = (("l1", 1), ("unit_l1", 3), ("balanced_bce", 1), ("two_class", 2))

CASES = (
    *(_case("cross_entropy", classes, dtype) for dtype in (_BF16, _FP16, _FP32) for classes in CLASSES),
    *(_case(kind, channels, dtype) for dtype in (_BF16, _FP16, _FP32) for kind, channels in _OTHERS),
    _case("cross_entropy", 40, _BF16, gradient=False),
)
