"""Angular errors of surface normals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqca.metrics import NormalError, normals


def tilted(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions (1, 3, 1, N) that are so many degrees off, and their labels."""
    radians = torch.deg2rad(degrees.double())
    prediction = torch.stack([radians.sin(), torch.zeros_like(radians), -radians.cos()])[None, :, None]
    target = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)[None, :, None, None].expand_as(prediction)
    return prediction.float(), target.float()


def test_known_angles_give_their_own_statistics() -> None:
    metric = NormalError()
    metric.update(*tilted(torch.tensor([0.0, 10.0, 20.0, 60.0])))
    scores = {name: value.item() for name, value in metric.compute().items()}
    assert scores["mean"] == pytest.approx(22.5, abs=1e-4)
    assert scores["median"] == pytest.approx(15, abs=0.01)
    assert scores["rmse"] == pytest.approx(np.sqrt((100 + 400 + 3600) / 4), abs=1e-4)
    assert [scores[f"below_{t}"] for t in ("11.25", "22.5", "30")] == [0.5, 0.75, 0.75]


def test_the_median_is_that_of_sorted_angles_to_half_a_hundredth_of_a_degree() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 7, 1000):
        angles = torch.rand(count, generator=generator) * 180
        metric = NormalError()
        metric.update(*tilted(angles))
        assert metric.compute()["median"].item() == pytest.approx(np.median(angles.numpy()), abs=0.0051)


def test_a_perfect_prediction_has_no_error() -> None:
    target = F.normalize(torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0)), dim=1)
    metric = NormalError()
    metric.update(target, target)
    assert metric.compute()["mean"].item() < 1e-5


def test_lengths_do_not_matter() -> None:
    prediction, target = tilted(torch.tensor([5.0, 90.0]))
    metric = NormalError()
    metric.update(3 * prediction, 0.5 * target)
    metric.update(torch.zeros(1, 3, 1, 1), target[..., :1])  # no direction: 90° off
    assert metric.compute()["mean"].item() == pytest.approx((5 + 90 + 90) / 3, abs=1e-4)


def test_shares_are_strictly_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normals, "THRESHOLDS", (90.0, 90.1))  # 90° is exact in floating point
    metric = NormalError()
    metric.update(torch.tensor([1.0, 0, 0])[None, :, None, None], torch.tensor([0.0, 1, 0])[None, :, None, None])
    scores = metric.compute()
    assert (scores["below_90"].item(), scores["below_90.1"].item()) == (0, 1)


def test_ignored_pixels_and_zero_vectors_are_left_out() -> None:
    prediction, target = tilted(torch.tensor([10.0, 50.0, 70.0]))
    target = target.clone()
    target[..., 1], target[..., 2] = 255, 0
    metric = NormalError()
    metric.update(prediction, target)
    assert metric.compute()["mean"].item() == pytest.approx(10, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_predictions_are_as_good_as_their_values(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    target = F.normalize(torch.randn(1, 3, 200, 300, generator=generator), dim=1)
    prediction = F.normalize(target + 0.2 * torch.randn(1, 3, 200, 300, generator=generator), dim=1).to(dtype)
    low, high = NormalError(), NormalError()
    low.update(prediction, target)
    high.update(prediction.double(), target)
    assert low.compute()["mean"].item() == high.compute()["mean"].item()


def test_without_valid_pixels_there_is_no_score() -> None:
    metric = NormalError()
    metric.update(torch.ones(1, 3, 2, 2), torch.full((1, 3, 2, 2), 255.0))
    assert all(value.isnan() for value in metric.compute().values())
