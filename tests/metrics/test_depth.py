"""Errors of metric depth."""

import math

import pytest
import torch

from seqca.metrics import DepthError


def test_errors_are_pooled_over_the_valid_pixels_of_all_images() -> None:
    metric = DepthError()
    metric.update(torch.tensor([[[[1.0, 2.0, 9.0]]]]), torch.tensor([[[[2.0, 2.0, 255.0]]]]))
    metric.update(torch.tensor([[[[4.0]]]]), torch.tensor([[[[1.0]]]]))
    scores = metric.compute()
    # Squares 1, 0 and 9 over three pixels; per image it would be (√½ + 3)/2.
    assert scores["rmse"].item() == pytest.approx(math.sqrt(10 / 3))
    assert scores["log_rmse"].item() == pytest.approx(math.sqrt((math.log(2) ** 2 + math.log(4) ** 2) / 3))


def test_predictions_that_are_not_positive_are_clamped() -> None:
    metric = DepthError()
    metric.update(torch.tensor([[[[-1.0]]]]), torch.tensor([[[[2.0]]]]))
    scores = metric.compute()
    assert scores["rmse"].item() == pytest.approx(2)
    assert scores["log_rmse"].item() == pytest.approx(math.log(2 / 1e-9))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_predictions_are_summed_without_overflow_or_rounding(dtype: torch.dtype) -> None:
    # 10⁶ pixels, each 2 m off: a float16 sum overflows, a bfloat16 sum stops growing at 1024.
    target = 1 + torch.rand(1, 1, 1000, 1000, generator=torch.Generator().manual_seed(0))
    prediction = (target + 2).to(dtype)
    metric = DepthError()
    metric.update(prediction, target)
    expected = (prediction.double() - target.double()).square().mean().sqrt()
    assert metric.compute()["rmse"].item() == pytest.approx(expected.item(), rel=1e-12)


def test_without_valid_pixels_there_is_no_score() -> None:
    metric = DepthError()
    metric.update(torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 255.0))
    assert metric.compute()["rmse"].isnan()


@pytest.mark.parametrize(
    "prediction, target, message",
    [
        (
            torch.ones(1, 1, 2, 2) * torch.nan,
            torch.ones(1, 1, 2, 2),
            "prediction: got NaN or infinity, expected finite numbers",
        ),
        (torch.ones(1, 2, 2), torch.ones(1, 2, 2), r"\(B, 1, H, W\)"),
        (
            torch.ones(1, 1, 1, 2),
            torch.ones(1, 1, 2, 2),
            r"prediction: got shape .*, expected \(1, 1, 2, 2\) as of the target",
        ),
        (torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), "target: got 0.0, expected metres above 0"),
    ],
)
def test_what_are_no_depth_maps_is_refused(prediction: torch.Tensor, target: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DepthError().update(prediction, target)
