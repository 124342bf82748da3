"""Means and variances of all layers of a call, layer by layer, in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .groups import Call, Group


class Statistics:
    """Empty, or those that are given; `keep` fills in what a group finds."""

    def __init__(self, call: Call) -> None:
        self._call = call
        nothing = call.maps[0].new_empty(0, dtype=torch.float64)
        self.means, self.variances, self.inverses = ([nothing] * len(call.weights) for _ in range(3))

    @classmethod
    def running(cls, call: Call, means: Sequence[Tensor], variances: Sequence[Tensor], norm_eps: float) -> "Statistics":
        """Of evaluation."""
        result = cls(call)
        sizes = [len(x) for x in means]
        mean, variance = torch.cat([*means]).double(), torch.cat([*variances]).double()
        result.means, result.variances = list(mean.split(sizes)), list(variance.split(sizes))
        result.inverses = list((variance + norm_eps).rsqrt().split(sizes))
        return result

    @classmethod
    def kept(cls, call: Call, means: Tensor, inverse: Tensor) -> "Statistics":
        """Of backward."""
        result = cls(call)
        sizes = [len(x) for x in call.weights]
        result.means, result.inverses = list(means.split(sizes)), list(inverse.split(sizes))
        return result

    def keep(
        self, group: Group, names: Sequence[str], mean: Tensor, inverse: Tensor, variance: Tensor, total: int | Tensor
    ) -> None:
        """Of layers of a group, each (branches, rows): means, 1/σ, and biased variances of `total` tokens."""
        unbiased = variance * (total / (total - 1))
        which = group.indices(*names)
        sizes = [len(self._call.weights[i]) for i in which]
        for tensors, x in ((self.means, mean), (self.inverses, inverse), (self.variances, unbiased)):
            for i, part in zip(which, x.flatten().split(sizes), strict=True):
                tensors[i] = part
