"""What a loss demands of its settings and of labels, each time in words that name the argument."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqca.loss_type import KINDS, Loss
from seqca.ops import upsampled_loss, use_backend

PREDICTION = torch.zeros(2, 3, 4, 5)
LABEL = torch.zeros(2, 3, 8, 10)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "l2"}, ValueError, "kind: got 'l2', expected one of cross_entropy, l1"),
        ({"kind": "cross_entropy", "ignore": 0.5}, ValueError, "ignore: got 0.5, expected a whole number"),
        ({"kind": "l1", "ignore": math.nan}, ValueError, "ignore: got nan, expected a finite number"),
        ({"kind": "l1", "ignore": "255"}, TypeError, "ignore: got '255', expected a number or None"),
        ({"kind": "l1", "ignore": True}, TypeError, "ignore: got True, expected a number or None"),
        ({"kind": "l1", "positive_weight": 0.5}, ValueError, "positive_weight: got 0.5, expected None for 'l1'"),
        ({"kind": "two_class", "positive_weight": 1.5}, ValueError, r"positive_weight: got 1.5, expected .* \[0, 1\]"),
        ({"kind": "two_class", "positive_weight": [1]}, TypeError, r"positive_weight: got \[1\], expected a number"),
    ],
)
def test_settings_that_make_no_loss_are_named(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Loss(**settings)


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize(
    ("prediction", "target", "kind", "error", "message"),
    [
        (PREDICTION[:0], LABEL[:0], "l1", ValueError, r"prediction: got shape \(0, 3, 4, 5\), expected .* not empty"),
        (PREDICTION, LABEL.bfloat16(), "l1", TypeError, "target: got torch.bfloat16, expected one of torch.float32"),
        (PREDICTION, LABEL[:, 0].byte(), "cross_entropy", TypeError, "target: got torch.uint8, expected torch.int64"),
        (PREDICTION, LABEL[:, :1], "two_class", ValueError, "prediction: got 3 channels, expected 2"),
        (PREDICTION, LABEL[..., :4], "l1", ValueError, r"target: got shape \(2, 3, 8, 4\), expected .*W ≥ 5"),
        (PREDICTION, LABEL.to("meta"), "l1", ValueError, "target: got a tensor on meta, expected cpu"),
        (PREDICTION.numpy(), LABEL, "l1", TypeError, "prediction: got ndarray, expected a Tensor"),
    ],
)
def test_labels_that_do_not_fit_are_named(
    backend: str, prediction: Tensor, target: Tensor, kind: str, error: type[Exception], message: str
) -> None:
    with use_backend(backend), pytest.raises(error, match=message):
        upsampled_loss(prediction, target, Loss(kind))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cross_entropy"])
def test_a_label_that_is_no_number_is_named_with_its_place(kind: str, value: float, compiled: bool) -> None:
    target = LABEL[:, : 1 if kind == "two_class" else 3].clone()
    target[1, 0, 2, 3] = value
    prediction = PREDICTION[:, : 2 if kind == "two_class" else 3]
    torch.compiler.reset()
    function = torch.compile(upsampled_loss, backend="eager", fullgraph=True) if compiled else upsampled_loss
    message = f"target: got {value} at image 1, channel 0, row 2, column 3, expected finite numbers"
    with use_backend("aten"), pytest.raises(ValueError, match=message):
        function(prediction, target, Loss(kind))
    if not compiled:
        with use_backend("reference"), pytest.raises(ValueError, match=message):
            function(prediction, target, Loss(kind))


@pytest.mark.parametrize("kind", ["balanced_bce", "two_class"])
def test_where_nothing_can_be_raised_a_label_that_is_nan_makes_the_loss_nan(kind: str) -> None:
    prediction = PREDICTION[:1, : 2 if kind == "two_class" else 3].clone().requires_grad_()
    target = LABEL[:1, : 1 if kind == "two_class" else 3].clone()
    target[0, 0, 2, 3] = math.nan
    with use_backend("reference"):
        compiled = torch.compile(upsampled_loss, backend="eager", fullgraph=True)
        compiled(prediction, target, Loss(kind)).backward()
    assert prediction.grad is not None
    broken = prediction.grad.isnan()
    assert broken[0, :, 1, 1].any() and not broken[..., 3:, :].any()
    with use_backend("triton"):
        assert upsampled_loss(prediction.detach().to(DEVICE), target.to(DEVICE), Loss(kind)).isnan()
