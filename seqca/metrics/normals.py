"""Angular errors of surface normals."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from seqca.metrics.base import TaskMetric, check_maps
from seqca.metrics.sphere import DirectionHistogram

THRESHOLDS = (11.25, 22.5, 30.0)
BINS_PER_DEGREE = 100


class NormalError(TaskMetric):
    """Angles between predicted and true normals in degrees, all valid pixels pooled.

    Both are brought to unit length first (a zero prediction is 90° off). The median comes from a histogram
    with bins of 0.01°, which can be summed over processes, and is therefore exact to 0.005°.

    Args:
        ignore: label, in all channels, of the pixels that are left out; so are zero vectors.
    """

    angles: Tensor
    squares: Tensor
    below: Tensor
    histogram: Tensor

    def __init__(self, ignore: float = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore = ignore
        self.add_sum("angles")
        self.add_sum("squares")
        self.add_sum("below", len(THRESHOLDS), dtype=torch.int64)
        self.add_sum("histogram", 180 * BINS_PER_DEGREE, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the angles: prediction (B, 3, H, W), target the same or `ignore`."""
        check_maps(prediction, target, 3)
        valid = self._valid(target)
        # In float64, as arccos near 1 turns a rounding error of float32 into 0.02°.
        true, predicted = _unit(target.movedim(1, -1)[valid]), _unit(prediction.movedim(1, -1)[valid])
        angles = (true * predicted).sum(-1).clamp(-1, 1).acos().rad2deg()
        self.angles += angles.sum()
        self.squares += angles.square().sum()
        self.below += torch.stack([(angles < threshold).sum() for threshold in THRESHOLDS])
        bins = (angles * BINS_PER_DEGREE).long().clamp(max=len(self.histogram) - 1)
        self.histogram += bins.bincount(minlength=len(self.histogram))

    def _valid(self, target: Tensor) -> Tensor:
        return (target[:, 0] != self.ignore) & (target != 0).any(1)

    def compute(self) -> dict[str, Tensor]:
        """{"mean", "median", "rmse": degrees; "below_11.25", …: shares in [0, 1]}; NaN where no pixel was
        valid."""
        pixels = self.histogram.sum()
        shares = self.below.double() / pixels
        return {
            "mean": self.angles / pixels,
            "median": self._median(pixels),
            "rmse": (self.squares / pixels).sqrt(),
        } | {f"below_{threshold:g}": share for threshold, share in zip(THRESHOLDS, shares, strict=True)}

    def _median(self, pixels: Tensor) -> Tensor:
        # The mean of the two middle angles (of one and the same where their number is odd), each the centre
        # of its bin.
        ranks = torch.stack([(pixels - 1) // 2, pixels // 2])
        bins = torch.searchsorted(self.histogram.cumsum(0), ranks, right=True)
        median = (bins.double() + 0.5).mean() / BINS_PER_DEGREE
        return torch.where(pixels > 0, median, torch.nan)

    def best_constant(self, labels: Iterable[Tensor]) -> Tensor:
        """The direction with the least mean angle to all valid normals."""
        histogram = DirectionHistogram()
        for label in labels:
            histogram.update(_unit(label.movedim(1, -1)[self._valid(label)]))
        return histogram.median()


def _unit(vectors: Tensor) -> Tensor:
    vectors = vectors.double()
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(min=1e-12)
