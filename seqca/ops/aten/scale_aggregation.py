"""The sum of upsampled 1×1 convolutions in torch operators: products at each map's own resolution, no concatenation."""

import torch
from torch import Tensor

from ..shared.concatenation import Concatenation
from .pyramid import Adjoint, image_levels, image_maps, sums, tiles


def forward(maps: list[Tensor], order: list[int], weight: Tensor, bias: Tensor | None) -> Tensor:
    """y (B, C, H_0, W_0) in the dtype of the maps."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    concatenation = Concatenation.of(maps, order)
    weights = concatenation.by_level(concatenation.merged(weight, wide))
    shift = weights[0].new_zeros(len(weight)) if bias is None else bias.to(wide)
    output = weight.new_empty(len(maps[0]), len(weight), *concatenation.sizes[0])
    for image, place in enumerate(output):
        levels = image_levels(maps, image, concatenation, [w.new_zeros(len(w)) for w in weights])
        for tile, result in sums(levels, weights, shift):
            place[:, tile.rows, tile.columns] = tile.image(result).permute(2, 0, 1)
    return output


def backward(
    grad: Tensor, maps: list[Tensor], order: list[int], weight: Tensor, bias: Tensor | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the maps, of the weight and of a bias, in their dtypes."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    concatenation = Concatenation.of(maps, order)
    weights = concatenation.by_level(concatenation.merged(weight, wide))
    adjoint = Adjoint(weights)
    results = [x.new_empty(x.shape) for x in maps]
    for image, gradient in enumerate(grad):
        levels = image_levels(maps, image, concatenation, [w.new_zeros(len(w)) for w in weights])
        adjoint.start(levels)
        for tile in tiles(levels):
            adjoint.add(tile, gradient[:, tile.rows, tile.columns].permute(1, 2, 0).to(wide).flatten(0, 1))
        image_maps(adjoint.finish(), image, concatenation, results)
    return results, concatenation.unmerged(adjoint.weight(), weight), adjoint.shift().to(weight.dtype, copy=True)
