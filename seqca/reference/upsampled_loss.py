"""Bilinear upsampling followed by a dense-prediction loss: plain mathematics."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seqca.loss_type import Loss, check_arguments, check_classes, valid_pixels


def upsampled_loss(prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """Upsample the prediction bilinearly (align_corners=False) to the label's size and compare it with the label.

    A batch whose pixels are all ignored has loss 0 and zero gradients.

    Args:
        prediction: raw network output (B, C, h, w), any floating dtype.
        target: label, (B, H, W) int64 for "cross_entropy", else (B, C, H, W) floating (C = 1 for
            "two_class"), H ≥ h and W ≥ w, any ratio.
        loss: which loss, and its ignore value and weight.

    Returns:
        Scalar of the prediction's dtype, or float32 for 16-bit predictions (upsampled in their own dtype).

    Raises:
        ValueError: shapes or devices that do not fit; on the CPU, a class label outside [0, C) that is not
            the ignore value, with its position. (On a GPU torch's own assertion stops the process.)
        TypeError: dtypes that do not fit.
    """
    check_arguments(prediction, target, loss)
    upsampled = F.interpolate(prediction, target.shape[-2:], mode="bilinear", align_corners=False)
    if upsampled.dtype in (torch.float16, torch.bfloat16):
        upsampled = upsampled.float()  # sums over an image overflow float16
    if loss.kind != "cross_entropy":
        target = target.to(upsampled.dtype)
    return _FUNCTIONS[loss.kind](upsampled, target, loss)


def _cross_entropy(logits: Tensor, target: Tensor, loss: Loss) -> Tensor:
    # Where no value is ignored, one that no label has stands for it: torch's own default is a number like any other.
    ignore = torch.iinfo(torch.int64).min if loss.ignore is None else int(loss.ignore)
    try:
        total = F.cross_entropy(logits, target, ignore_index=ignore, reduction="sum")
    except IndexError:  # torch looks at every label on the CPU, but does not say where the bad one is
        check_classes(target, logits.shape[1], loss.ignore)
        raise
    return total / valid_pixels(target, loss.ignore).sum().clamp(min=1)


def _l1(prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    return _masked_l1(prediction, target, valid_pixels(target, loss.ignore))


def _unit_l1(prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    # One channel tells: an ignored pixel holds the ignore value in all of them.
    valid = valid_pixels(target[:, :1], loss.ignore)
    return _masked_l1(F.normalize(prediction, dim=1, eps=1e-12), target, valid) / target.shape[1]


def _masked_l1(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    # Masked before the absolute value: backward then needs the residual and the mask, not the prediction.
    residual = (prediction - target).masked_fill(~valid, 0)
    return residual.abs().sum() / valid.sum().clamp(min=1)


def _balanced_bce(logits: Tensor, target: Tensor, loss: Loss) -> Tensor:
    positive = (target >= 0.5).to(logits.dtype).masked_fill(target.isnan(), torch.nan)
    valid = valid_pixels(target, loss.ignore)
    pixels = valid.sum().clamp(min=1)
    weight: float | Tensor | None = loss.positive_weight
    if weight is None:
        weight = (valid & (target < 0.5)).sum().to(logits.dtype) / pixels
    weights = (2 * weight - 1) * positive + (1 - weight)  # w where positive, else 1 − w
    if loss.ignore is not None:
        weights = weights.masked_fill(~valid, 0)
    return F.binary_cross_entropy_with_logits(logits, positive, weights, reduction="sum") / pixels


def _two_class(logits: Tensor, target: Tensor, loss: Loss) -> Tensor:
    # The softmax of two logits is the sigmoid of their difference.
    return _balanced_bce(logits[:, 1:] - logits[:, :1], target, loss)


_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Loss], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "l1": _l1,
    "unit_l1": _unit_l1,
    "balanced_bce": _balanced_bce,
    "two_class": _two_class,
}
