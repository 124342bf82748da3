"""What losses of other code bases have in common where `seqca.ops.upsampled_loss` computes them."""

from typing import Any

import torch
from torch import Tensor

from seqca.loss_type import LABEL_DTYPES

from .lazy import LazyMap


def coarse_of(prediction: Any, label: Tensor, channels: int | None = None) -> Tensor | None:
    """The map that a loss of an upsampled prediction is computed from, or None if it needs the prediction itself.

    It does where nobody promised that the prediction is an upsampled map, where that map was written into, and where
    `upsampled_loss` would give another dtype than torch's losses: for half precision outside autocast, and for labels
    that are wider than the prediction.

    Args:
        prediction: of the loss.
        label: (…, H, W).
        channels: that the prediction must have, if it matters.
    """
    if not isinstance(prediction, LazyMap) or prediction.changed or prediction.to_size != tuple(label.shape[-2:]):
        return None
    coarse = prediction.coarse
    smaller = all(low <= high for low, high in zip(coarse.shape[-2:], prediction.to_size, strict=True))
    single = coarse.dtype == torch.float32 or torch.is_autocast_enabled(coarse.device.type)
    wide = coarse.dtype == torch.float64
    fits = label.dtype in LABEL_DTYPES and (wide or (single and label.dtype != torch.float64))
    expected = channels in (None, coarse.shape[1])
    return coarse if smaller and fits and expected else None


def mean_of_valid(loss: Tensor, valid: Tensor) -> Tensor:
    """A loss as torch's mean gives it where no pixel is valid: NaN, with the gradient 0; otherwise unchanged.

    Args:
        loss: of `upsampled_loss`, which is 0 there.
        valid: mask of the valid pixels.
    """
    return loss + 0 / valid.count_nonzero()
