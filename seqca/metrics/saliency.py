"""Scores of saliency maps."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from seqca.labels import IGNORE
from seqca.metrics.base import TaskMetric, check_probability

THRESHOLDS = tuple(percent / 100 for percent in range(20, 95, 5))
POOLED_THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))
SQUARED_BETA = 0.3  # precision counts more than recall


class SaliencyScores(TaskMetric):
    """Foreground IoU and F of thresholded saliency, averaged over images, at the best threshold.

    Protocol `mtinet`: a pixel is foreground where the probability exceeds t, for t = 0.20, 0.25, …, 0.90. For
    each t the IoU of the foreground, the precision P and the recall R of every image are averaged over the
    images. "mIoU" is the largest mean IoU, "maxF" the largest 2PR/(P + R) of the mean P and R. The IoU of an
    image without foreground, predicted or true, is 1; its P and R are 0, as they are wherever they would be
    0/0.
    """

    iou: Tensor
    precision: Tensor
    recall: Tensor
    images: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("iou", "precision", "recall"):
            self.add_sum(state, len(THRESHOLDS))
        self.add_sum("images", dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the images: prediction (B, 1, H, W) probabilities, target the same, foreground from 0.5 up."""
        check_probability(prediction, target)
        salient = target.flatten(1) >= 0.5
        probability = prediction.flatten(1)
        if probability.dtype != torch.float64:
            probability = probability.float()  # 16-bit types have no 0.2
        actual = salient.sum(1).double()
        for index, threshold in enumerate(THRESHOLDS):
            found = probability > threshold
            hits, predicted = (found & salient).sum(1).double(), found.sum(1).double()
            union = actual + predicted - hits
            self.iou[index] += torch.where(union > 0, hits / union.clamp(min=1), 1).sum()
            self.precision[index] += (hits / predicted.clamp(min=1)).sum()
            self.recall[index] += (hits / actual.clamp(min=1)).sum()
        self.images += len(salient)

    def compute(self) -> dict[str, Tensor]:
        """{"mIoU", "maxF": in [0, 1]}; NaN where there was no image."""
        precision, recall = self.precision / self.images, self.recall / self.images
        f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        return {"mIoU": (self.iou / self.images).max(), "maxF": f.max()}

    def best_constant(self, labels: Iterable[Tensor]) -> Tensor:
        """0.5: everything is foreground below that threshold and nothing from it on, all a constant can do."""
        return torch.tensor([0.5], dtype=torch.float64)


class PooledSaliency(TaskMetric):
    """F of thresholded saliency from counts over the whole data set, at the best threshold.

    Protocol `invpt`: a pixel is foreground where σ(p) is at least t, for t = 0.05, 0.10, …, 0.95. "maxF" is the largest
    1.3 PR/(0.3 P + R), P and R from hits, predicted and true pixels of all images together.

    σ is the protocol's quirk: the code of InvPT and TaskPrompter puts the probability p through a second sigmoid, whose
    values are 0.5 to 0.731, so that only five cut-offs of p differ: 0, 0.201, 0.405, 0.619 and 0.847. Their published
    maxF is the largest over these five.
    """

    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_sum("counts", len(POOLED_THRESHOLDS), 3, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count: prediction (B, 1, H, W) probabilities, target the same, foreground from 0.5 up, 255 left out."""
        check_probability(prediction, target)
        labelled = target != IGNORE
        twice, salient = prediction[labelled].float().sigmoid(), target[labelled] >= 0.5
        for index, threshold in enumerate(POOLED_THRESHOLDS):
            found = twice >= threshold
            self.counts[index] += torch.stack([(found & salient).sum(), found.sum(), salient.sum()])

    def compute(self) -> dict[str, Tensor]:
        """{"maxF": in [0, 1]}; 0 where nothing is hit."""
        hits, predicted, actual = self.counts.double().unbind(1)
        precision, recall = hits / predicted.clamp(min=1), hits / actual.clamp(min=1)
        f = (1 + SQUARED_BETA) * precision * recall / (SQUARED_BETA * precision + recall).clamp(min=1e-12)
        return {"maxF": f.max()}

    def best_constant(self, labels: Iterable[Tensor]) -> Tensor:
        """0.5: everything is foreground at the lowest cut-off, which is 0, all a constant can do."""
        return torch.tensor([0.5], dtype=torch.float64)
