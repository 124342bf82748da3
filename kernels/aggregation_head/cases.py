"""Forward and backward on eight images: the head of a task of the network, by its outputs, and a head of another one.

In the network a map of a scale stands once for each coarser scale, beside the map that attends to it. The other head
takes the maps of a feature pyramid, 256 channels each, more than one product takes, and predicts the 150 classes of
ADE20K, more than a block of outputs. float32 is multiplied as three TF32 products, nearly as exact as float32, unless
torch's TF32 switch asks for one; in evaluation, and in the last layer, without tensor cores. Once there are so many
images that offsets take 64 bits.
"""

import torch
from torch import Tensor

from seqca.configuration import IMAGE, NETWORK

from ..compilation import CompiledCase
from . import backward, forward

_BF16, _FP16, _FP32 = torch.bfloat16, torch.float16, torch.float32

_TESTED_ON = {
    ("network", 40, _BF16): (80, 90, 100),
    ("network", 1, _BF16): (90,),
    ("network", 1, _FP32): (90, 100),
    ("network", 3, _FP16): (100,),
    ("network", 40, _FP32): (80,),
    ("FPN", 150, _BF16): (90,),
    ("FPN", 150, _FP32): (100,),
}
"""Every head, number of outputs, dtype and compute capability occurs."""

_MANY = 320
"""Images whose products at the coarser scales have more than 2³¹ elements."""


def _maps(head: str, images: int, dtype: torch.dtype) -> tuple[list[Tensor], list[int]]:
    """The maps of a head, each once, and their order in the concatenation."""
    sizes = [(IMAGE[0] // stride, IMAGE[1] // stride) for stride in NETWORK.strides]
    maps, order = [], []
    channels = NETWORK.channels if head == "network" else (256,) * 4
    for scale, (c, size) in enumerate(zip(channels, sizes, strict=True)):
        attended = len(sizes) - 1 - scale if head == "network" else 0
        order += [i for a in range(attended) for i in (len(maps), len(maps) + 1 + a)] or [len(maps)]
        maps += [torch.empty(images, c, *size, dtype=dtype, device="meta") for _ in range(1 + attended)]
    return maps, order


def _case(head: str, outputs: int, dtype: torch.dtype, images: int = 8, training: bool = True) -> CompiledCase:
    """A head with so many outputs."""

    def run() -> None:
        maps, order = _maps(head, images, dtype)
        channels = sum(maps[i].shape[1] for i in order)
        weight = torch.empty(channels, channels, 1, 1, dtype=dtype, device="meta")
        last = torch.empty(outputs, channels, 1, 1, dtype=dtype, device="meta")
        by_channel, bias, offset = (torch.empty(n, device="meta") for n in (channels, channels, outputs))
        layers = (weight, bias.to(dtype), by_channel, by_channel, last, offset.to(dtype))
        running = (None, None) if training else (by_channel, by_channel)
        prediction, _, _, *kept = forward(maps, order, *layers, *running, 1e-5, "")
        backward(prediction, maps, order, *layers, *kept, training, "")

    if not training:
        return CompiledCase(f"{head}, C_out = {outputs}, evaluation", dtype, run, (80,))
    if images == _MANY:
        return CompiledCase(f"{head}, C_out = {outputs}, {images} images", dtype, run, (90,))
    tokens = 8 * NETWORK.tokens(*IMAGE)[0] if (head, outputs) == ("network", 40) else None
    return CompiledCase(f"{head}, C_out = {outputs}", dtype, run, _TESTED_ON.get((head, outputs, dtype), ()), tokens)


_HEADS = (("network", 1), ("network", 3), ("network", 40), ("FPN", 150))

CASES = (
    *(_case(head, outputs, dtype) for dtype in (_BF16, _FP16, _FP32) for head, outputs in _HEADS),
    _case("network", 40, _FP32, training=False),
    _case("network", 40, _BF16, _MANY),
)
