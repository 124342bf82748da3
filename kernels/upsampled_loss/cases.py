"""Labels of eight 480×640 images and predictions at a stride, forward and, where a gradient is needed, backward.

Every loss at stride 4, and cross-entropy at strides that take other blocks of pixels, or cut squares into parts.
"""

import torch

from seqca.configuration import IMAGE

from ..compilation import CompiledCase
from . import backward, forward

_BF16, _FP16, _FP32 = torch.bfloat16, torch.float16, torch.float32

_TESTED_ON = {
    ("cross_entropy", 40, _BF16, 4, True): (80, 90, 100),
    ("cross_entropy", 40, _FP32, 4, True): (90,),
    ("cross_entropy", 40, _FP16, 1, True): (100,),
    ("cross_entropy", 40, _FP32, 2, True): (100,),
    ("cross_entropy", 40, _FP16, 32, True): (80,),
    ("cross_entropy", 13, _FP16, 4, True): (90,),
    ("cross_entropy", 40, _BF16, 4, False): (90,),
    ("unit_l1", 3, _BF16, 4, True): (80,),
    ("l1", 1, _FP32, 4, True): (90,),
    ("balanced_bce", 1, _BF16, 4, True): (80, 90),
    ("two_class", 2, _FP16, 4, True): (100,),
}
"""Every stride, kind, dtype and compute capability occurs, the network's classes on all."""


def _case(kind: str, channels: int, dtype: torch.dtype, stride: int = 4, gradient: bool = True) -> CompiledCase:
    """One loss, number of classes or values, and stride."""

    def run() -> None:
        size = [side // stride for side in IMAGE]
        prediction = torch.empty(8, channels, *size, dtype=dtype, device="meta")
        target = torch.empty(8, 1 if kind == "two_class" else channels, *IMAGE, device="meta")
        if kind == "cross_entropy":
            target = target[:, 0].long()
        _, kept, divisor = forward(prediction, target, kind, 255.0, None, gradient)
        if gradient:
            backward(torch.empty((), device="meta"), prediction, kept, divisor)

    shape = f"C = {channels}, {kind}, stride {stride}" + ("" if gradient else ", no gradient")
    tokens = 8 * IMAGE[0] * IMAGE[1] if stride == 4 and gradient else None
    return CompiledCase(shape, dtype, run, _TESTED_ON.get((kind, channels, dtype, stride, gradient), ()), tokens)


_LOSSES = (
    ("cross_entropy", 13),
    ("cross_entropy", 40),
    ("l1", 1),
    ("unit_l1", 3),
    ("balanced_bce", 1),
    ("two_class", 2),
)

CASES = (
    *(_case(kind, channels, dtype) for dtype in (_BF16, _FP16, _FP32) for kind, channels in _LOSSES),
    *(_case("cross_entropy", 40, dtype, stride) for dtype in (_BF16, _FP16, _FP32) for stride in (1, 2, 32)),
    _case("cross_entropy", 40, _BF16, gradient=False),
)
