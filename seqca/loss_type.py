"""What is minimised for a task, and what a prediction and a label must be for it."""

from dataclasses import dataclass

import torch
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


def valid_pixels(target: Tensor, ignore: float | None) -> Tensor:
    return torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore


def check_classes(target: Tensor, classes: int, ignore: float | None) -> None:
    """ValueError with the first label that is neither in [0, classes) nor the ignore value; waits for a GPU."""
    bad = ((target < 0) | (target >= classes)) & valid_pixels(target, ignore)
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
