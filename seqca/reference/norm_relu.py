"""Convolutions with batch norm and ReLU, and the residual block: plain mathematics."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch_norm import batch_moments, batch_norm


def norm_relu(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    projection: bool = False,
    batches: int = 1,
    running_means: Sequence[Tensor] | None = None,
    running_vars: Sequence[Tensor] | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """h ← relu(BN(conv(h))), layer after layer, from the concatenation of the maps, the residual added to the last BN.

    Args:
        maps: (B, C_j, H, W), those of each batch one after the other.
        weights: of the convolutions (C_i, C_{i−1}, k, k), padded by k // 2; or none, and the one norm is of the maps.
        norm_weights, norm_biases: scale and shift of the batch norms, (C_i,).
        residual: of the shape of the result.
        strides: of the convolutions; by default 1.
        projection: whether the last of the layers is BN(conv) of the maps, which is the residual.
        batches: how many, each computed by itself.
        running_means, running_vars: by layer, (C_i,), what is normalised by; without them those of the batch.
        eps: added to the variances.

    Returns:
        relu(BN + residual), (batches · B, C, H', W'); by layer mean and unbiased variance, (C_i,), of several batches
        (batches, C_i), or the running ones, without gradient.
    """
    block = partial(
        _block,
        weights=weights,
        norm_weights=norm_weights,
        norm_biases=norm_biases,
        strides=strides,
        projection=projection,
        running_means=running_means,
        running_vars=running_vars,
        eps=eps,
    )
    if batches == 1:
        return block(maps, residual)
    count = len(maps) // batches
    residuals = [None] * batches if residual is None else residual.chunk(batches)
    results = [block(maps[i * count : (i + 1) * count], own) for i, own in enumerate(residuals)]
    outputs, means, variances = zip(*results, strict=True)
    if running_means is not None:
        return torch.cat(outputs), means[0], variances[0]
    stacked = [[torch.stack(layer) for layer in zip(*found, strict=True)] for found in (means, variances)]
    return torch.cat(outputs), stacked[0], stacked[1]


def _block(
    maps: Sequence[Tensor],
    residual: Tensor | None,
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    strides: Sequence[int] | None,
    projection: bool,
    running_means: Sequence[Tensor] | None,
    running_vars: Sequence[Tensor] | None,
    eps: float,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Of one batch."""
    means: list[Tensor] = []
    variances: list[Tensor] = []

    def normalised(layer: int, x: Tensor) -> Tensor:
        if weights:
            stride = 1 if strides is None else strides[layer]
            x = F.conv2d(x, weights[layer], stride=stride, padding=weights[layer].shape[2] // 2)
        norm = (norm_weights[layer], norm_biases[layer], eps)
        if running_means is not None and running_vars is not None:
            means.append(running_means[layer])
            variances.append(running_vars[layer])
            return batch_norm(x, *norm, means[-1], variances[-1])
        mean, variance = batch_moments(x.detach())
        means.append(mean)
        variances.append(variance)
        return batch_norm(x, *norm)

    joined = torch.cat(list(maps), 1) if len(maps) > 1 else maps[0]
    last = len(norm_weights) - 1 - projection
    hidden = joined
    for layer in range(last):
        hidden = F.relu(normalised(layer, hidden))
    result = normalised(last, hidden)
    if projection:
        residual = normalised(last + 1, joined)
    return F.relu(result if residual is None else result + residual), means, variances
