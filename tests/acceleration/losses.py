"""A loss of a lazy prediction beside that of the full one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqca.acceleration import LazyMap, accelerate


def compare_lazy(loss: nn.Module, channels: int, label: Tensor, full: bool = False) -> None:
    """Accelerates a loss; value and gradient of a lazy map must be what they were of the upsampled one.

    Args:
        loss: of a kind that is known.
        channels: of the prediction.
        label: (B, …, H, W).
        full: whether the fused loss makes the full map after all.
    """
    height, width = label.shape[-2:]
    values, gradients = [], []
    for lazy in (False, True):
        coarse = torch.randn(len(label), channels, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        prediction = (
            LazyMap(coarse, (height, width)) if lazy else F.interpolate(coarse, (height, width), mode="bilinear")
        )
        value = loss(prediction, label)
        (gradient,) = torch.autograd.grad(value, coarse)
        assert not lazy or ("_full" in vars(prediction)) == full
        values.append(value.detach())
        gradients.append(gradient)
        if not lazy:
            accelerate(nn.Identity(), loss, outputs="lazy")
    torch.testing.assert_close(values[1], values[0], equal_nan=True)
    torch.testing.assert_close(gradients[1], gradients[0])
