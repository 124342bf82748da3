"""F of edges, pixel by pixel."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from seqca.metrics.base import TaskMetric, check_probability

STEPS = 100  # thresholds are 1/STEPS apart


class PixelEdgeF(TaskMetric):
    """F = 2PR/(P + R) of thresholded edge probabilities at the data set's best threshold, pixel by pixel.

    A pixel is predicted an edge where the probability is at least t, for t = 0.01, 0.02, …, 0.99; P and R
    come from counts over the whole data set. This is not odsF: predictions are neither thinned nor matched to
    edges within a distance, so an edge that is off by one pixel is missed, and the two must not be compared.
    """

    edges: Tensor
    others: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Pixels by the number of thresholds that their probability reaches, 0 … 99.
        self.add_sum("edges", STEPS, dtype=torch.int64)
        self.add_sum("others", STEPS, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count: prediction (B, 1, H, W) probabilities, target the same, an edge from 0.5 up."""
        check_probability(prediction, target)
        probability = prediction if prediction.dtype == torch.float64 else prediction.float()
        thresholds = torch.arange(1, STEPS, device=prediction.device, dtype=probability.dtype) / STEPS
        reached = torch.bucketize(probability.contiguous(), thresholds, right=True)
        edge = target >= 0.5
        self.edges += reached[edge].bincount(minlength=STEPS)
        self.others += reached[~edge].bincount(minlength=STEPS)

    def compute(self) -> dict[str, Tensor]:
        """{"pixel_f": in [0, 1]}; 0 where no edge is found."""
        # Pixels that reach threshold t or a higher one, t = 1 … 99 hundredths.
        hits, false = (state.flip(0).cumsum(0).flip(0)[1:] for state in (self.edges, self.others))
        # 2PR/(P + R) = 2 hits / (predicted + actual)
        f = 2 * hits.double() / (hits + false + self.edges.sum()).clamp(min=1)
        return {"pixel_f": f.max()}

    def best_constant(self, labels: Iterable[Tensor]) -> Tensor:
        """0.5: an edge everywhere at the best threshold; the only other constant, no edge anywhere, has F =
        0."""
        return torch.tensor([0.5], dtype=torch.float64)
