"""`norm_relu` in torch operators: torch's own batch norm forward, applied again and backward.

Torch's passes have no statistics of several processes, and add up float64 one by one, with many roundings. Under a
process group and in float64 passes are made of plain operators, with sums between them.
"""

from typing import Any

import torch
from torch import Tensor

from ..shared import norm_block
from ..shared.norm_block import Norm, Normalised, NormGradients
from ..shared.synchronisation import merged_moments, summed


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
        if running is None:
            tokens = y.numel() // y.shape[1]
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
        # With variance 1 and ε 0 the scale is taken as it is.
        scale, one = norm.weight * norm.inverse, torch.ones_like(norm.mean)
        output, *_ = torch.native_batch_norm(y, scale, norm.bias, norm.mean, one, False, 0.0, 0.0)
        return _finished(output, addend, rectify)

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
            rectified = torch.empty_like(y)
            torch.ops.aten.threshold_backward.grad_input(grad, result, 0, grad_input=rectified)
        if training and _of_torch(y, group):
            # ε is not read.
            gradients = torch.ops.aten.native_batch_norm_backward(
                rectified, y, norm.weight, None, None, norm.mean, norm.inverse, True, 0.0, [True, True, True]
            )
            return NormGradients(rectified, *gradients)
        wide = rectified.to(norm.weight.dtype)
        deviation, scale = _deviation(y, norm.mean), norm.weight * norm.inverse
        shifts, scales = _total(wide), _total(wide * deviation) * norm.inverse
        d_y = wide * _by_channel(scale)
        if training:
            total, all_shifts, all_scales = summed(y.numel() // y.shape[1], shifts, scales, group)
            constant, slope = scale * all_shifts / total, scale * norm.inverse * all_scales / total
            d_y -= deviation.mul_(_by_channel(slope.to(scale))).add_(_by_channel(constant.to(scale)))
        return NormGradients(rectified, d_y.to(y.dtype), scales, shifts)


def _of_torch(y: Tensor, group: str) -> bool:
    return not group and y.dtype != torch.float64


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


def forward(*arguments: Any) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """See `norm_block.forward`."""
    return norm_block.forward(_Passes(), *arguments)


def backward(*arguments: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """See `norm_block.backward`."""
    return norm_block.backward(_Passes(), *arguments)
