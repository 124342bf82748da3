"""Bilinear upsampling followed by a dense-prediction loss: plain mathematics."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("cross_entropy", "l1", "unit_l1", "balanced_bce", "two_class")


@dataclass(frozen=True)
class Loss:
    """What is minimised between a prediction, upsampled to the label's size, and the label.

    With z the upsampled prediction, y the label, V the valid pixels (label ≠ ignore; all, if ignore is None):

    - ``"cross_entropy"``: mean softmax cross-entropy over V; y (B, H, W) int64 class indices.
    - ``"l1"``: mean |z − y| over the valid entries; y (B, C, H, W).
    - ``"unit_l1"``: mean over V and the C channels of |z/‖z‖ − y|, y (B, C, H, W) unit vectors, whose
      ignored pixels hold the ignore value in every channel.
    - ``"balanced_bce"``: [w Σ_{y ≥ 0.5} −log σ(z) + (1 − w) Σ_{y < 0.5} −log(1 − σ(z))] / |V|, w the
      `positive_weight`, or the share of negative pixels among the batch's valid ones where that is None;
      y (B, C, H, W).
    - ``"two_class"``: the same with the softmax of two logits in place of the sigmoid, channel 1 the positive
      class: cross-entropy with class weights (1 − w, w), divided by |V|; y (B, 1, H, W).

    These are the losses of Vandenhende et al., "MTI-Net", ECCV 2020 (all but the last) and Brüggemann et al.,
    "Exploring Relational Context for Multi-Task Dense Prediction" (ATRC), ICCV 2021 (the last).
    """

    kind: str
    ignore: float | None = None
    positive_weight: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"loss kind {self.kind!r} is unknown; known are {', '.join(KINDS)}")
        weight = self.positive_weight
        if weight is not None and self.kind not in ("balanced_bce", "two_class"):
            raise ValueError(f"positive_weight is for two-class losses, not for {self.kind!r}")
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"positive_weight must lie in [0, 1], got {weight}")


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


def _valid(target: Tensor, ignore: float | None) -> Tensor:
    return torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore


def _cross_entropy(logits: Tensor, target: Tensor, loss: Loss) -> Tensor:
    # Where no value is ignored, one that no label has stands for it: torch's own default is a number like any other.
    ignore = torch.iinfo(torch.int64).min if loss.ignore is None else int(loss.ignore)
    try:
        total = F.cross_entropy(logits, target, ignore_index=ignore, reduction="sum")
    except IndexError:  # torch looks at every label on the CPU, but does not say where the bad one is
        check_classes(target, logits.shape[1], loss.ignore)
        raise
    return total / _valid(target, loss.ignore).sum().clamp(min=1)


def _l1(prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    return _masked_l1(prediction, target, _valid(target, loss.ignore))


def _unit_l1(prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    # One channel tells: an ignored pixel holds the ignore value in all of them.
    valid = _valid(target[:, :1], loss.ignore)
    return _masked_l1(F.normalize(prediction, dim=1, eps=1e-12), target, valid) / target.shape[1]


def _masked_l1(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    # Masked before the absolute value: backward then needs the residual and the mask, not the prediction.
    residual = (prediction - target).masked_fill(~valid, 0)
    return residual.abs().sum() / valid.sum().clamp(min=1)


def _balanced_bce(logits: Tensor, target: Tensor, loss: Loss) -> Tensor:
    positive = (target >= 0.5).to(logits.dtype)
    valid = _valid(target, loss.ignore)
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


def check_classes(target: Tensor, classes: int, ignore: float | None) -> None:
    """ValueError with the first label that is neither in [0, classes) nor the ignore value; waits for a GPU."""
    bad = ((target < 0) | (target >= classes)) & _valid(target, ignore)
    if bad.any():
        image, row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f"target holds {target[image, row, column].item()} at image {image}, row {row}, column {column}, "
            f"expected classes 0 to {classes - 1}" + ("" if ignore is None else f", or {ignore:g} for ignored pixels")
        )


def check_arguments(prediction: Tensor, target: Tensor, loss: Loss) -> None:
    """Whether types, dtypes, shapes and devices fit the loss; raises as `upsampled_loss` says."""
    for name, value, kind in (("prediction", prediction, Tensor), ("target", target, Tensor), ("loss", loss, Loss)):
        if not isinstance(value, kind):
            raise TypeError(f"{name}: got {type(value).__name__}, expected a {kind.__name__}")
    if not prediction.is_floating_point():
        raise TypeError(f"prediction must be floating, got {prediction.dtype}")
    if prediction.ndim != 4:
        raise ValueError(f"prediction must be (B, C, h, w), got {tuple(prediction.shape)}")
    batch, channels, height, width = prediction.shape
    if loss.kind == "cross_entropy":
        if target.dtype != torch.int64:
            raise TypeError(f"target of a cross-entropy must be int64, got {target.dtype}")
        expected: tuple[int, ...] = (batch,)
    else:
        if not target.is_floating_point():
            raise TypeError(f"target of loss {loss.kind!r} must be floating, got {target.dtype}")
        if loss.kind == "two_class" and channels != 2:
            raise ValueError(f"prediction of a two-class loss must have 2 channels, got {channels}")
        expected = (batch, 1 if loss.kind == "two_class" else channels)
    if tuple(target.shape[:-2]) != expected or target.shape[-2] < height or target.shape[-1] < width:
        wanted = ", ".join([*map(str, expected), f"H ≥ {height}", f"W ≥ {width}"])
        raise ValueError(
            f"target must be ({wanted}) for a prediction {tuple(prediction.shape)} and loss "
            f"{loss.kind!r}, got {tuple(target.shape)}"
        )
    if target.device != prediction.device:
        raise ValueError(f"target is on {target.device}, prediction on {prediction.device}")
