"""The network's 3×3 convolutions in half precision by memory format: contiguous, channels-last, and that with channels
padded to a multiple of eight, as rows of 16 bytes want it.

Forward and the gradients of map and weight, replayed as a graph: what cuDNN does to change formats is in it, what
blocks would do for it is not.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.shapes import nyud
from benchmarks.harness.environment import environment
from benchmarks.harness.results import write
from benchmarks.harness.timing import replayed
from seqca.configuration import NETWORK
from seqca.ops.shared.device import checked_device

BATCHES = (8, 32)
"""Images: of a batch, and of four tasks at once."""
REPEATS = 4
"""Of a convolution in a graph."""
TIMES = 5


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.convolutions", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--dry", action="store_true", help="a small one, on a CPU")
    options = parser.parse_args()
    device = checked_device(None)
    shapes = [(8, (4, 4), 2)] if options.dry else network_shapes()
    found = [measured(*shape, device) for shape in shapes]
    write(json.dumps({"environment": environment(device), "convolutions": found}, indent=1), options.output)
    for row in found:
        print(
            ", ".join(f"{name} {x * 1e6:.1f} us" if isinstance(x, float) else f"{name} {x}" for name, x in row.items())
        )


def network_shapes() -> list[tuple[int, tuple[int, int], int]]:
    """Channels, height and width, and images of the backbone's blocks and of those of tasks."""
    data = nyud(8)
    sizes = [(data.height // stride, data.width // stride) for stride in NETWORK.strides]
    pairs = [(c // share, size) for c, size in zip(NETWORK.channels, sizes, strict=True) for share in (2, 1)]
    pairs.append((4 * NETWORK.channels[0], sizes[0]))  # what a target gathers from three tasks, and its own map
    return [(channels, size, images) for channels, size in pairs for images in BATCHES]


def measured(channels: int, size: tuple[int, int], images: int, device: str) -> dict[str, Any]:
    """Seconds by format."""
    padded = -(-channels // 8) * 8
    formats = {"contiguous": (channels, torch.contiguous_format), "channels-last": (channels, torch.channels_last)}
    if padded != channels:
        formats["channels-last, padded"] = (padded, torch.channels_last)
    row: dict[str, Any] = {"channels": channels, "height": size[0], "width": size[1], "images": images}
    return row | {name: timed(images, c, size, layout, device) for name, (c, layout) in formats.items()}


def timed(images: int, channels: int, size: tuple[int, int], layout: torch.memory_format, device: str) -> float:
    """Seconds of a convolution and its gradients, 0 on a CPU."""
    x, grad = (torch.randn(images, channels, *size, device=device, dtype=torch.bfloat16) for _ in range(2))
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=torch.bfloat16)
    x, grad, weight = (tensor.contiguous(memory_format=layout) for tensor in (x, grad, weight))

    def work() -> list[Tensor]:
        results = []
        for _ in range(REPEATS):
            results.append(F.conv2d(x, weight, padding=1))
            results += torch.ops.aten.convolution_backward(
                grad, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
            )[:2]
        return results

    return replayed(work, TIMES, device) / REPEATS


if __name__ == "__main__":
    main()
