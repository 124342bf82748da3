"""Scores of saliency maps."""

import numpy as np
import pytest
import torch

from seqca.metrics import PooledSaliency, SaliencyScores


def by_hand(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """mIoU and maxF, image by image and threshold by threshold."""
    ious, fs = [], []
    for t in np.linspace(0.2, 0.9, 15):
        per_image = []
        for p, y in zip(prediction > t, target > 0.5, strict=True):
            hits = (p & y).sum()
            iou = hits / (p | y).sum() if (p | y).any() else 1
            per_image.append((iou, hits / p.sum() if p.any() else 0, hits / y.sum() if y.any() else 0))
        iou, precision, recall = np.mean(per_image, 0)
        ious.append(iou)
        fs.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
    return max(ious), max(fs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_scores_are_averaged_over_images_before_the_best_threshold_is_taken(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(6, 1, 12, 10, generator=generator) > torch.linspace(0.3, 1, 6)[:, None, None, None]).float()
    noise = torch.rand(6, 1, 12, 10, generator=generator)
    prediction = (0.4 * target + 0.6 * noise).to(dtype)
    prediction[5] = 0  # an image without salient pixels, in which none is predicted
    metric = SaliencyScores()
    metric.update(prediction[:4], target[:4])
    metric.update(prediction[4:], target[4:])
    scores = metric.compute()
    iou, f = by_hand(prediction.double().numpy()[:, 0], target.numpy()[:, 0])
    assert scores["mIoU"].item() == pytest.approx(iou, rel=1e-12)
    assert scores["maxF"].item() == pytest.approx(f, rel=1e-12)


def test_a_probability_must_exceed_the_threshold() -> None:
    metric = SaliencyScores()
    metric.update(torch.full((1, 1, 1, 2), 0.2), torch.ones(1, 1, 1, 2))
    assert metric.compute()["mIoU"].item() == 0
    metric.reset()
    metric.update(torch.full((1, 1, 1, 2), 0.21), torch.ones(1, 1, 1, 2))
    assert metric.compute()["mIoU"].item() == 1


def test_nothing_salient_and_nothing_found_is_a_perfect_image() -> None:
    metric = SaliencyScores()
    metric.update(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3))
    scores = metric.compute()
    assert (scores["mIoU"].item(), scores["maxF"].item()) == (1, 0)


def test_logits_are_not_taken_for_probabilities() -> None:
    with pytest.raises(ValueError, match=r"prediction: got -3.0 to -3.0, expected probabilities in \[0, 1\]"):
        SaliencyScores().update(torch.full((1, 1, 2, 2), -3.0), torch.zeros(1, 1, 2, 2))


def test_under_invpt_counts_of_all_images_are_pooled_and_precision_weighs_more() -> None:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(3, 1, 12, 9, generator=generator) < 0.3).float()
    prediction = (0.4 * target + 0.6 * torch.rand(3, 1, 12, 9, generator=generator)).clamp(0, 1)
    target[:, :, :3] = 255
    metric = PooledSaliency()
    metric.update(prediction[:1], target[:1])
    metric.update(prediction[1:], target[1:])
    p, y = prediction[:, :, 3:].numpy(), target[:, :, 3:].numpy() == 1
    best = 0.0
    for cut_off in (0, 0.2007, 0.4055, 0.6190, 0.8473):  # ln(t / (1 − t)) for t = 0.5, 0.55, …, 0.7
        found = p >= cut_off
        precision, recall = (found & y).sum() / max(found.sum(), 1), (found & y).sum() / y.sum()
        best = max(best, 1.3 * precision * recall / (0.3 * precision + recall) if precision + recall else 0)
    assert metric.compute()["maxF"].item() == pytest.approx(best, rel=1e-9)


def test_under_invpt_a_second_sigmoid_leaves_five_cut_offs() -> None:
    target = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)

    def score(background: float, salient: float) -> float:
        metric = PooledSaliency()
        metric.update(torch.tensor([background, salient]).reshape(1, 1, 1, 2), target)
        return metric.compute()["maxF"].item()

    assert score(0.60, 0.65) == pytest.approx(1), "0.619 stands between them"
    assert score(0.45, 0.60) == pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1)), "0.5 does not"
