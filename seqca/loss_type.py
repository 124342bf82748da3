"""What is minimised for a task, and what a prediction and a label must be for it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BINARY_KINDS = ("balanced_bce", "two_class")
KINDS = ("cross_entropy", "l1", "unit_l1", *BINARY_KINDS)

LABEL_DTYPES = (torch.float32, torch.float16, torch.float64)
"""Of labels that are no classes. bfloat16 is none: metres and unit vectors would be rounded to one part in 256."""


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
            raise ValueError(f"kind: got {self.kind!r}, expected one of {', '.join(KINDS)}")
        for name in ("ignore", "positive_weight"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise TypeError(f"{name}: got {value!r}, expected a number or None")
        ignore, weight = self.ignore, self.positive_weight
        if ignore is not None and not math.isfinite(ignore):
            raise ValueError(f"ignore: got {ignore}, expected a finite number")
        if ignore is not None and self.kind == "cross_entropy" and not float(ignore).is_integer():
            raise ValueError(f"ignore: got {ignore}, expected a whole number, as class labels are")
        if weight is not None and self.kind not in BINARY_KINDS:
            raise ValueError(f"positive_weight: got {weight}, expected None for {self.kind!r}")
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"positive_weight: got {weight}, expected a number in [0, 1]")


def valid_pixels(target: Tensor, ignore: float | None) -> Tensor:
    """Where a label counts, a mask of its shape."""
    return torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore


def check_classes(target: Tensor, classes: int, ignore: float | None) -> None:
    """ValueError with the first label that is neither in [0, classes) nor the ignore value; waits for a GPU."""
    bad = ((target < 0) | (target >= classes)) & valid_pixels(target, ignore)
    if bad.any():
        image, row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f"target: got {target[image, row, column].item()} at image {image}, row {row}, column {column}, "
            f"expected classes 0 to {classes - 1}" + ("" if ignore is None else f", or {ignore:g} for ignored pixels")
        )


def check_finite(target: Tensor) -> None:
    """ValueError with the first label that is NaN or infinite; waits for a GPU."""
    finite = target.isfinite()
    if not finite.all():
        at = (~finite).nonzero()[0].tolist()
        place = ", ".join(f"{axis} {i}" for axis, i in zip(("image", "channel", "row", "column"), at, strict=True))
        raise ValueError(f"target: got {target[tuple(at)].item()} at {place}, expected finite numbers")


def check_label_values(target: Tensor, classes: int, loss_kind: str, ignore: float | None) -> None:
    """`check_classes` or `check_finite`, whichever the loss needs; waits for a GPU."""
    if loss_kind == "cross_entropy":
        check_classes(target, classes, ignore)
    else:
        check_finite(target)


def check_arguments(prediction: Tensor, target: Tensor, loss: Loss) -> None:
    """Whether types, dtypes, shapes and devices fit the loss; raises as `upsampled_loss` says."""
    for name, value, kind in (("prediction", prediction, Tensor), ("target", target, Tensor), ("loss", loss, Loss)):
        if not isinstance(value, kind):
            raise TypeError(f"{name}: got {type(value).__name__}, expected a {kind.__name__}")
        if isinstance(value, Tensor) and value.layout is not torch.strided:
            raise TypeError(f"{name}: got a tensor in {value.layout}, expected a dense one")
    if not prediction.is_floating_point():
        raise TypeError(f"prediction: got {prediction.dtype}, expected a floating-point dtype")
    if prediction.ndim != 4 or 0 in prediction.shape:
        raise ValueError(f"prediction: got shape {tuple(prediction.shape)}, expected (B, C, h, w), not empty")
    batch, channels, height, width = prediction.shape
    expected: tuple[int, ...] = (batch,)
    if loss.kind == "cross_entropy":
        if target.dtype != torch.int64:
            raise TypeError(f"target: got {target.dtype}, expected torch.int64 for 'cross_entropy'")
    else:
        if target.dtype not in LABEL_DTYPES:
            dtypes = ", ".join(map(str, LABEL_DTYPES))
            raise TypeError(f"target: got {target.dtype}, expected one of {dtypes} for {loss.kind!r}")
        if loss.kind == "two_class" and channels != 2:
            raise ValueError(f"prediction: got {channels} channels, expected 2 for 'two_class'")
        expected = (batch, 1 if loss.kind == "two_class" else channels)
    if tuple(target.shape[:-2]) != expected or target.shape[-2] < height or target.shape[-1] < width:
        wanted = ", ".join([*map(str, expected), f"H ≥ {height}", f"W ≥ {width}"])
        raise ValueError(
            f"target: got shape {tuple(target.shape)}, expected ({wanted}) for a prediction "
            f"{tuple(prediction.shape)} and {loss.kind!r}"
        )
    if target.device != prediction.device:
        raise ValueError(f"target: got a tensor on {target.device}, expected {prediction.device} as of the prediction")
