"""Means and variances of all layers of a call, layer by layer, in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .groups import BranchGroup
from .problem import Problem


class LayerStatistics:
    """What layers are normalised by: as given, or at first nothing, and `keep` fills in what a group finds."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        nothing = problem.maps[0].new_empty(0, dtype=torch.float64)
        self.means, self.variances, self.inverses = ([nothing] * len(problem.weights) for _ in range(3))

    @classmethod
    def running(
        cls, problem: Problem, means: Sequence[Tensor], variances: Sequence[Tensor], norm_eps: float
    ) -> "LayerStatistics":
        """Statistics of evaluation."""
        result = cls(problem)
        sizes = [len(x) for x in means]
        mean, variance = torch.cat([*means]).double(), torch.cat([*variances]).double()
        result.means, result.variances = list(mean.split(sizes)), list(variance.split(sizes))
        result.inverses = list((variance + norm_eps).rsqrt().split(sizes))
        return result

    @classmethod
    def kept(cls, problem: Problem, means: Tensor, inverse: Tensor) -> "LayerStatistics":
        """Statistics that forward has kept for backward."""
        result = cls(problem)
        sizes = [len(x) for x in problem.weights]
        result.means, result.inverses = list(means.split(sizes)), list(inverse.split(sizes))
        return result

    def keep(
        self,
        group: BranchGroup,
        names: Sequence[str],
        mean: Tensor,
        inverse: Tensor,
        variance: Tensor,
        total: int | Tensor,
    ) -> None:
        """Puts those of the named layers of a group, (branches, rows), in their places; variances are biased."""
        unbiased = variance * (total / (total - 1))
        which = group.indices(*names)
        sizes = [len(self._problem.weights[i]) for i in which]
        for tensors, x in ((self.means, mean), (self.inverses, inverse), (self.variances, unbiased)):
            for i, part in zip(which, x.flatten().split(sizes), strict=True):
                tensors[i] = part
