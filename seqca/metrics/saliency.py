"""Scores of saliency maps."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from seqca.metrics.base import TaskMetric, check_probability

THRESHOLDS = tuple(percent / 100 for percent in range(20, 95, 5))


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
