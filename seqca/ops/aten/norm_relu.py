"""`norm_relu` in torch operators: on a CPU torch's own batch norm forward, applied again and backward.

Torch's passes have no statistics of several processes, and on a CPU add up float64, and channels-last maps, one by one,
with many roundings. On a GPU they lose digits of a variance beside a large mean, and round partial sums of gradients to
half precision (`Float2` in ATen/native/cuda/Normalization.cuh). In all these cases there are sums between the passes.

Several batches are computed one after the other: the concatenation of all would be fresh pages in every call, which
cost a CPU more than the copies that join the results.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..shared import channel_sums, norm_block
from ..shared.norm_block import Norm, Normalised, NormGradients
from ..shared.synchronisation import merged_moments, summed
from .rectifier import through_relu


class _Passes:
    def forward(
        self,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        running: tuple[Tensor, Tensor] | None,
        eps: float,
        group: str,
        addend: Tensor | None,
        rectify: bool,
    ) -> Normalised:
        """See `norm_block.Passes`."""
        if running is None and _of_torch(y, group):
            mean, variance = torch.zeros_like(weight), torch.zeros_like(weight)
            # With momentum 1 the running statistics are those of the batch, the variance unbiased.
            output, _, inverse = torch.native_batch_norm(y, weight, bias, mean, variance, True, 1.0, eps)
            return Normalised(_finished(output, addend, rectify), mean, variance, inverse)
        tokens = y.numel() // y.shape[1]
        if running is None and _of_sums(y, group):
            mean, variance = channel_sums.moments(y)
            inverse, variance = (variance + eps).rsqrt(), variance * tokens / (tokens - 1)
        elif running is None:
            own = _total(y.to(weight.dtype)) / tokens
            squares = _total(_deviation(y, own.to(weight)).square())
            total, mean, squares = merged_moments(tokens, own, squares, group)
            inverse, variance = (squares / total + eps).rsqrt(), squares / (total - 1)
        else:
            mean, variance = running[0].double(), running[1].double()
            inverse = (variance + eps).rsqrt()
        mean, variance, inverse = (x.to(weight, copy=True) for x in (mean, variance, inverse))
        return Normalised(self.again(y, Norm(mean, inverse, weight, bias), addend, rectify), mean, variance, inverse)

    def again(self, y: Tensor, norm: Norm, addend: Tensor | None, rectify: bool) -> Tensor:
        """See `norm_block.Passes`."""
        return _finished(_affine(y, norm.mean, norm.weight * norm.inverse, norm.bias), addend, rectify)

    def backward(
        self,
        grad: Tensor,
        y: Tensor,
        norm: Norm,
        addend: Tensor | None,
        result: Tensor | None,
        rectify: bool,
        training: bool,
        group: str,
    ) -> NormGradients:
        """See `norm_block.Passes`."""
        rectified = grad
        if rectify:
            result = self.again(y, norm, addend, True) if result is None else result
            rectified = through_relu(grad, result, out=torch.empty_like(y))
        scale = norm.weight * norm.inverse
        if training and _of_sums(y, group):
            tokens = y.numel() // y.shape[1]
            shifts, scales = channel_sums.gradient_sums(rectified, y, norm.mean, norm.inverse)
            slope, constant = (-scale * x.to(scale) / tokens for x in (scales * norm.inverse, shifts))
            d_y = _affine(y, norm.mean, slope, constant).addcmul_(rectified, _by_channel(scale))
            return NormGradients(rectified, d_y, scales, shifts)
        if training and _of_torch(y, group):
            # ε is not read.
            gradients = torch.ops.aten.native_batch_norm_backward(
                rectified, y, norm.weight, None, None, norm.mean, norm.inverse, True, 0.0, [True, True, True]
            )
            return NormGradients(rectified, *gradients)
        wide = rectified.to(norm.weight.dtype)
        deviation = _deviation(y, norm.mean)
        shifts, scales = _total(wide), _total(wide * deviation) * norm.inverse
        d_y = wide * _by_channel(scale)
        if training:
            total, all_shifts, all_scales = summed(y.numel() // y.shape[1], shifts, scales, group)
            constant, slope = scale * all_shifts / total, scale * norm.inverse * all_scales / total
            d_y -= deviation.mul_(_by_channel(slope.to(scale))).add_(_by_channel(constant.to(scale)))
        return NormGradients(rectified, d_y.to(y.dtype), scales, shifts)


def _of_torch(y: Tensor, group: str) -> bool:
    return not group and y.device.type == "cpu" and y.dtype != torch.float64 and y.is_contiguous()


def _of_sums(y: Tensor, group: str) -> bool:
    return not group and channel_sums.applies(y) and not y.is_contiguous()


def _affine(y: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale · (y − mean) + shift in one pass: a batch norm with variance 1 and ε 0 takes the scale as it is."""
    output, *_ = torch.native_batch_norm(y, scale, shift, mean, torch.ones_like(mean), False, 0.0, 0.0)
    return output


def _finished(output: Tensor, addend: Tensor | None, rectify: bool) -> Tensor:
    if addend is not None:
        output += addend
    return output.relu_() if rectify else output


def _deviation(y: Tensor, mean: Tensor) -> Tensor:
    return y.to(mean.dtype) - _by_channel(mean)


def _by_channel(x: Tensor) -> Tensor:
    return x[:, None, None]


def _total(x: Tensor) -> Tensor:
    """Sums by channel in float64, of sums of rows in the dtype of x."""
    return x.sum(3).sum((0, 2), dtype=torch.float64)


def forward(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    strides: Sequence[int],
    projection: bool,
    batches: int,
    running_means: Sequence[Tensor],
    *rest: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """See `norm_block.forward`."""
    parameters, structure = (weights, norm_weights, norm_biases), (strides, projection, 1, running_means, *rest)
    results = [
        norm_block.forward(_Passes(), own, *parameters, addend, *structure)
        for own, addend in zip(_split(maps, batches), _chunks(residual, batches), strict=True)
    ]
    if batches == 1:
        return results[0]
    outputs, *statistics, kept = zip(*results, strict=True)
    layout = norm_block.memory_format(maps)
    means, variances, inverses = (
        found[0] if running_means else [torch.cat(layer) for layer in zip(*found, strict=True)] for found in statistics
    )
    return _whole(outputs, layout), means, variances, inverses, [_whole(y, layout) for y in zip(*kept, strict=True)]


def backward(
    grad: Tensor,
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    means: Sequence[Tensor],
    inverses: Sequence[Tensor],
    kept: Sequence[Tensor],
    strides: Sequence[int],
    projection: bool,
    batches: int,
    training: bool,
    group: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """See `norm_block.backward`."""
    parameters, structure = (weights, norm_weights, norm_biases), (strides, projection, 1, training, group)
    results = []
    for i, (own, addend) in enumerate(zip(_split(maps, batches), _chunks(residual, batches), strict=True)):
        statistics = [[x.chunk(batches)[i] if training else x for x in found] for found in (means, inverses)]
        of_batch: tuple[Any, ...] = (addend, *statistics, [y.chunk(batches)[i] for y in kept], *structure)
        results.append(norm_block.backward(_Passes(), grad.chunk(batches)[i], own, *parameters, *of_batch))
    if batches == 1:
        return results[0]
    layout = norm_block.memory_format(maps)
    d_maps, *of_parameters, d_residuals = zip(*results, strict=True)
    d_weights, d_scales, d_shifts = (
        [sum(x[1:], x[0]) for x in zip(*gradients, strict=True)] for gradients in of_parameters
    )
    d_residual = d_residuals[0] if residual is None else _whole(d_residuals, layout)
    in_order = [x.contiguous(memory_format=layout) for own in d_maps for x in own]
    return in_order, d_weights, d_scales, d_shifts, d_residual


def _split(maps: Sequence[Tensor], batches: int) -> Iterator[Sequence[Tensor]]:
    """The maps of each batch."""
    count = len(maps) // batches
    return (maps[i : i + count] for i in range(0, len(maps), count))


def _chunks(residual: Tensor | None, batches: int) -> Sequence[Tensor | None]:
    return [None] * batches if residual is None else residual.chunk(batches)


def _whole(parts: Sequence[Tensor], layout: torch.memory_format) -> Tensor:
    """Images of all batches."""
    shape = (len(parts) * len(parts[0]), *parts[0].shape[1:])
    result = torch.empty(shape, dtype=parts[0].dtype, device=parts[0].device, memory_format=layout)
    return torch.cat(list(parts), out=result)
