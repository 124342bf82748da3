"""F of edges, pixel by pixel."""

import numpy as np
import pytest
import torch

from seqca.metrics import PixelEdgeF


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_f_is_that_of_pooled_counts_at_the_best_of_ninety_nine_thresholds(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(4, 1, 20, 30, generator=generator) < 0.1).float()
    noise = torch.rand(4, 1, 20, 30, generator=generator)
    prediction = (noise * (1 - target) + noise.sqrt() * target).to(dtype)
    metric = PixelEdgeF()
    metric.update(prediction[:1], target[:1])
    metric.update(prediction[1:], target[1:])
    p, y = prediction.double().numpy(), target.numpy() > 0.5
    best = 0.0
    for t in np.arange(1, 100) / 100:
        found = p >= t
        precision, recall = (found & y).sum() / max(found.sum(), 1), (found & y).sum() / y.sum()
        best = max(best, 2 * precision * recall / (precision + recall) if precision + recall else 0)
    assert metric.compute()["pixel_f"].item() == pytest.approx(best, rel=1e-12)


def test_a_probability_equal_to_the_threshold_is_an_edge() -> None:
    target = torch.tensor([[[[1.0, 0.0]]]])
    for low, high in ((0.98, 0.99), (0.0, 0.01)):
        metric = PixelEdgeF()
        metric.update(torch.tensor([[[[high, low]]]]), target)
        assert metric.compute()["pixel_f"].item() == 1
    metric = PixelEdgeF()
    metric.update(torch.tensor([[[[1.0, 0.99]]]]), target)  # no threshold lies between them
    assert metric.compute()["pixel_f"].item() == pytest.approx(2 / 3)


def test_an_edge_one_pixel_off_is_missed() -> None:
    target = torch.zeros(1, 1, 5, 5)
    target[..., 2] = 1
    metric = PixelEdgeF()
    metric.update(target.roll(1, -1), target)
    # At no threshold does anything but the background, at probability 0, hit.
    assert metric.compute()["pixel_f"].item() == 0


def test_without_edges_f_is_zero() -> None:
    metric = PixelEdgeF()
    metric.update(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 5, 5))
    assert metric.compute()["pixel_f"].item() == 0


def test_logits_are_not_taken_for_probabilities() -> None:
    with pytest.raises(ValueError, match=r"prediction: got 7.0 to 7.0, expected probabilities in \[0, 1\]"):
        PixelEdgeF().update(torch.full((1, 1, 2, 2), 7.0), torch.zeros(1, 1, 2, 2))
