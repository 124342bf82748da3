"""Sums of upsampled 1×1 convolutions on Triton: a product by tile, in which interpolation is rows of the operands.

Forward: the operands (`pyramid`), then the sum. Backward: plain products by tile and image, and a gather.
"""

import torch
from torch import Tensor

from ..launch import launch
from ..pyramid import Pyramid
from .sums import scale_aggregation_forward_sum


def forward(maps: list[Tensor], order: list[int], weight: Tensor, bias: Tensor | None) -> Tensor:
    """y (B, C, H_0, W_0) in the dtype of the maps."""
    pyramid = Pyramid(maps, order, weight)
    g = pyramid.geometry
    shift = torch.zeros(pyramid.padded, device=weight.device)
    shift[: len(weight)] = pyramid.lost if bias is None else pyramid.lost + bias
    output = weight.new_empty(pyramid.images, len(weight), g.height, g.width)
    arguments = {**pyramid.arguments(), "shift": shift, "output": output, "channels": len(weight)}
    warps = pyramid.tile_sizes.warps
    launch(scale_aggregation_forward_sum, (pyramid.tiles,), weight.device, arguments, num_warps=warps)
    return output


def backward(
    grad: Tensor, maps: list[Tensor], order: list[int], weight: Tensor, bias: Tensor | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the maps, of the weight and of a bias, in their dtypes."""
    pyramid = Pyramid(maps, order, weight)

    def fill(gradient: Tensor, images: slice) -> None:
        gradient[:, len(weight) :] = 0
        pyramid.to_tiles(grad[images], gradient[:, : len(weight)])

    results, d_weight = pyramid.adjoint(fill)
    return results, d_weight, grad.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype)
