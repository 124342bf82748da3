"""The second block of a task's first features at scale 0 for eight images: two convolutions and a residual.

Contiguous or channels-last, with a gradient whose rows have gaps, as a slice of a larger map has them, and the images
as four batches.
"""

import torch

from seqca.configuration import IMAGE, NETWORK

from ..compilation import CompiledCase
from . import backward, forward

_CHANNELS = NETWORK.channels[0]

_SIZE = tuple(side // NETWORK.strides[0] for side in IMAGE)

_TESTED_ON = {
    (torch.bfloat16, "contiguous"): (80, 90, 100),
    (torch.bfloat16, "channels-last"): (90,),
    (torch.bfloat16, "four batches"): (80, 90, 100),
    (torch.float32, "gradient with gaps"): (80,),
}


def _case(dtype: torch.dtype, layout: str) -> CompiledCase:
    """A case of one layout."""

    def run() -> None:
        order = torch.channels_last if layout == "channels-last" else torch.contiguous_format
        batches = 4 if layout == "four batches" else 1
        x = torch.empty(8, _CHANNELS, *_SIZE, dtype=dtype, device="meta", memory_format=order)
        weight = torch.empty(_CHANNELS, _CHANNELS, 3, 3, dtype=dtype, device="meta")
        vector = torch.empty(_CHANNELS, device="meta")
        maps, layers = list(x.chunk(batches)), ([weight] * 2, [vector] * 2, [vector] * 2, x)
        structure = ([1, 1], False, batches)
        output, mean, _, inverse, kept = forward(maps, *layers, *structure, [], [], 1e-5, "")
        gradient = torch.empty_like(output)
        if layout == "gradient with gaps":
            gradient = gradient.new_empty(*gradient.shape[:3], _SIZE[1] + 8)[..., : _SIZE[1]]
        backward(gradient, maps, *layers, mean, inverse, kept, *structure, True, "")

    tokens = 8 * NETWORK.tokens(*IMAGE)[0]
    return CompiledCase(f"C = {_CHANNELS}, {layout}", dtype, run, _TESTED_ON.get((dtype, layout), ()), tokens)


CASES = tuple(
    _case(dtype, layout)
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for layout in ("contiguous", "channels-last", "gradient with gaps", "four batches")
)
