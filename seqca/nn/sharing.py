"""Parameters that are used several times in a pass, whose gradients are added together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def shared(layers: Sequence[Sequence[Tensor]], uses: int) -> list[list[list[Tensor]]]:
    """The parameters of layers for each use, all uses to be differentiated: on a GPU their gradients take few launches.

    Autograd would add those of each tensor by itself.
    """
    if not torch.is_grad_enabled():
        return [[[x.detach() for x in layer] for layer in layers]] * uses
    remaining = iter(_Shared.apply(uses, *(x for layer in layers for x in layer)))
    return [[[next(remaining) for _ in layer] for layer in layers] for _ in range(uses)]


class _Shared(Function):
    @staticmethod
    def forward(ctx: Any, uses: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.count = len(tensors)
        return tuple(x.view_as(x) for _ in range(uses) for x in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total = gradients[: ctx.count]
        for start in range(ctx.count, len(gradients), ctx.count):
            total = torch._foreach_add(total, gradients[start : start + ctx.count])
        return (None, *total)
