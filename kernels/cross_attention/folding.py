"""What lies between the passes over tokens: layers folded with the moments of their maps, and back, in float64.

A layer W of a map of mean m and covariance K has the variance v = diag(W K Wᵀ) and becomes γ/σ (W x − W m) + β.
A projection A of the map comes first in the product: A' = diag(γ/σ) A, and W A', rounded to the dtype of the maps, is
then the weight whose statistics are taken.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from seqca.ops.shared.folded_variance import folded_variances, through_variances

from .groups import BranchGroup, ByKind


class MapMoments(NamedTuple):
    """Means (maps, C) and covariances (maps, C, C) of maps, biased, in float64."""

    mean: Tensor
    covariance: Tensor

    def of(self, group: BranchGroup) -> "MapMoments":
        """Moments of the maps of a group, by branch; here are those of all maps of its stack."""
        return MapMoments(*map(group.of_maps, self))


class FirstLayers(NamedTuple):
    """The layers of a group that read maps, hidden ones above values; (branches, rows, …) in float64."""

    weight: Tensor
    """The matrix that is multiplied with the map."""
    mean: Tensor
    """Mean of what the weight makes of the map, which is taken off."""
    inverse: Tensor
    """1/σ."""
    scale: Tensor
    """γ/σ."""
    shift: Tensor
    """β."""
    own: Tensor
    """The weight that was given."""
    projections: "Projections | None"

    def variance(self, moments: MapMoments) -> Tensor:
        """Variance of what the weight makes of the map, biased."""
        return folded_variances(self.weight, moments.covariance)


class Projections(NamedTuple):
    """The projections of a group; (branches, rows, …) in float64."""

    weight: Tensor
    mean: Tensor
    inverse: Tensor
    scale: Tensor
    shift: Tensor

    def variance(self, moments: MapMoments) -> Tensor:
        """Variance of what the weight makes of the map, biased."""
        return folded_variances(self.weight, moments.covariance)

    @property
    def folded(self) -> Tensor:
        """γ/σ A."""
        return self.scale[..., None] * self.weight

    @property
    def offset(self) -> Tensor:
        """What is added to γ/σ A x in evaluation."""
        return self.shift - self.scale * self.mean


def fold(group: BranchGroup, known: list[ByKind] | None, moments: MapMoments | None, norm_eps: float) -> FirstLayers:
    """The layers of a group.

    Args:
        group: the branches.
        known: means and 1/σ where these are known; of the means, those of evaluation are needed.
        moments: of the maps of the group, in training.
        norm_eps: added to variances that are not known.
    """
    scales, shifts = group.norms
    projections = None
    own = weight = group.weights("hidden", "values").double()
    if group.projected:
        matrix = group.weights("projection").double()
        mean, inverse = _statistics(matrix, 0, known, moments, norm_eps)
        projections = Projections(matrix, mean, inverse, scales.projection * inverse, shifts.projection)
        weight = torch.bmm(own, projections.folded).to(group.problem.dtype).double()
    mean, inverse = _statistics(weight, 1, known, moments, norm_eps)
    if projections is not None and moments is None:
        mean = mean - torch.bmm(own, projections.offset[..., None])[..., 0]
    return FirstLayers(weight, mean, inverse, scales.first * inverse, shifts.first, own, projections)


def _statistics(
    weight: Tensor, kind: int, known: list[ByKind] | None, moments: MapMoments | None, norm_eps: float
) -> tuple[Tensor, Tensor]:
    """Mean and 1/σ of what the layers of a kind make of the maps."""
    if moments is None:
        assert known is not None
        return known[0][kind], known[1][kind]
    mean = torch.bmm(weight, moments.mean[..., None])[..., 0]
    if known is not None:
        return mean, known[1][kind]
    return mean, (folded_variances(weight, moments.covariance) + norm_eps).rsqrt()


class FoldGradient(NamedTuple):
    """Gradients of the layers that read maps, and in training of the covariances of the maps, by branch."""

    weight: Tensor
    scale: Tensor
    shift: Tensor
    projections: tuple[Tensor, Tensor, Tensor] | None
    covariance: Tensor | None


def unfold(first: FirstLayers, products: Tensor, sums: Tensor, moments: MapMoments | None) -> FoldGradient:
    """Gradients by those of the norms, s: R = Σ s (x − m)ᵀ and r = Σ s; m is 0 in evaluation.

    With dc = rowsum(R ⊙ W) that of γ/σ, dv = −½ dc γ/σ³ that of the variance: dW = γ/σ R + 2 dv W K, dK = Wᵀ dv W.
    """
    d_scale = (products * first.weight).sum(-1)
    d_weight = first.scale[..., None] * products
    d_covariance = None
    if moments is None:
        d_scale = d_scale - sums * first.mean
    else:
        more, d_covariance = through_variances(first.weight, moments.covariance, first.scale, first.inverse, d_scale)
        d_weight = d_weight + more
    d_projections = None
    p = first.projections
    if p is not None:
        d_folded = torch.bmm(first.own.mT, d_weight)
        d_weight = torch.bmm(d_weight, p.folded.mT)
        of_scale = (d_folded * p.weight).sum(-1)
        of_weight = p.scale[..., None] * d_folded
        if moments is None or d_covariance is None:
            weighted = first.scale * sums
            of_shift = torch.bmm(weighted[:, None], first.own)[:, 0]
            d_weight = torch.baddbmm(d_weight, weighted[..., None], p.offset[:, None])
            of_scale = of_scale - of_shift * p.mean
        else:
            of_shift = torch.zeros_like(of_scale)
            more, of_covariance = through_variances(p.weight, moments.covariance, p.scale, p.inverse, of_scale)
            of_weight, d_covariance = of_weight + more, d_covariance + of_covariance
        d_projections = of_weight, of_scale * p.inverse, of_shift
    return FoldGradient(d_weight, d_scale * first.inverse, sums, d_projections, d_covariance)
