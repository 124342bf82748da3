"""Means and variances of all layers of a call, layer after layer, in float64."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LayerStatistics(NamedTuple):
    """What layers are normalised by, (rows of all layers): as given, or in training what the passes find."""

    means: Tensor
    variances: Tensor
    """Unbiased where they are of the batch. Backward has no need of them."""
    inverses: Tensor
    """1/σ."""

    @classmethod
    def empty(cls, weights: Sequence[Tensor]) -> "LayerStatistics":
        """Memory for those of the batch."""
        rows = sum(len(x) for x in weights)
        return cls(*(weights[0].new_empty(rows, dtype=torch.float64) for _ in range(3)))

    @classmethod
    def running(cls, means: Sequence[Tensor], variances: Sequence[Tensor], norm_eps: float) -> "LayerStatistics":
        """Those of evaluation."""
        mean, variance = torch.cat([*means]).double(), torch.cat([*variances]).double()
        return cls(mean, variance, (variance + norm_eps).rsqrt())
