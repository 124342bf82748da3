"""Errors of metric depth."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from seqca.metrics.base import TaskMetric, check_maps

SMALLEST_DEPTH = 1e-9  # predictions are clamped to it (protocol `mtinet`), so that the logarithm exists


class DepthError(TaskMetric):
    """Root mean square errors of depth, in metres and of its natural logarithm, all valid pixels pooled.

    Args:
        ignore: label of the pixels that are left out.
    """

    squares: Tensor
    log_squares: Tensor
    pixels: Tensor

    def __init__(self, ignore: float = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore = ignore
        self.add_sum("squares")
        self.add_sum("log_squares")
        self.add_sum("pixels", dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the errors: prediction (B, 1, H, W) metres, target the same, positive, or `ignore`."""
        check_maps(prediction, target, 1)
        valid = target != self.ignore
        if (target <= 0).any():
            raise ValueError(f"target: got {target.min()}, expected metres above 0")
        prediction, target = prediction[valid].double().clamp(min=SMALLEST_DEPTH), target[valid].double()
        self.squares += (prediction - target).square().sum()
        self.log_squares += (prediction.log() - target.log()).square().sum()
        self.pixels += valid.sum()

    def compute(self) -> dict[str, Tensor]:
        """{"rmse": metres, "log_rmse": of natural logarithms}; NaN where no pixel was valid."""
        return {
            "rmse": (self.squares / self.pixels).sqrt(),
            "log_rmse": (self.log_squares / self.pixels).sqrt(),
        }

    def best_constant(self, labels: Iterable[Tensor]) -> Tensor:
        """The mean depth, which minimises the squared error."""
        total, pixels = 0.0, 0
        for label in labels:
            valid = label[label != self.ignore]
            total += valid.double().sum().item()
            pixels += valid.numel()
        if not pixels:
            raise ValueError("labels: got no valid pixel, expected one at least")
        return torch.tensor([total / pixels], dtype=torch.float64)
