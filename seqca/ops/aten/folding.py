"""Batch norm behind a 1×1 convolution, folded into its matrix by the moments of the map, and the derivative of that.

With m and K the mean and covariance of the tokens x of a map, W x has mean W m and variance diag(W K Wᵀ), so that
BN(W x) = c W (x − m) + β with c = γ/√(variance + ε): no pass over W x is needed. A projection s = A' (x − m) + μ that
stands in front makes it c W A' (x − m) + β. All of it is work on matrices of channels, in float64.

Backward needs of the gradient s of c W (x − m) + β two sums alone, R = Σ s (x − m)ᵀ and r = Σ s. The gradient of the
map is Σ c Wᵀ s over the layers that read it plus, in training, 2/T (x − m)ᵀ dK with the gradient dK of K, less the mean
of all that: the output does not depend on m, so that the gradient of the map sums to 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..shared.folded_variance import through_variances


class MapMoments(NamedTuple):
    """Mean and covariance of the tokens of a map, in float64."""

    mean: Tensor
    """(C_m,). Where nothing is normalised by the batch, any centre."""
    covariance: Tensor
    """(C_m, C_m), divided by T."""
    rest: Tensor | float = 0.0
    """What the mean of the tokens is more than `mean`, in which it is rounded, (C_m,)."""


class Input(NamedTuple):
    """What a layer reads, as a function of a map's tokens: matrix · (x − m) + mean."""

    mean: Tensor
    """(C_in,), in float64."""
    matrix: Tensor | None = None
    """(C_in, C_m), in float64; None for the map itself."""


class Fold(NamedTuple):
    """A layer with its batch norm, as a function of a map's tokens: scale · matrix · (x − m) + offset."""

    weight: Tensor
    """W (rows, C_in), in float64, as all of these."""
    matrix: Tensor
    """W, or behind a projection W A' (rows, C_m), rounded to the dtype that products take it in."""
    inverse: Tensor
    """1/√(variance + ε), (rows,)."""
    scale: Tensor
    """c = γ · inverse, (rows,)."""
    offset: Tensor
    """(rows,)."""
    excess: Tensor | None
    """In evaluation, what the centre is mapped to less the running mean; None in training, where that is 0."""

    def scaled(self, dtype: torch.dtype) -> Tensor:
        """scale · matrix, in a dtype."""
        return (self.scale[:, None] * self.matrix).to(dtype)


def matrix_of(weight: Tensor, given: Input, dtype: torch.dtype) -> Tensor:
    """The matrix of a layer W (rows, C_in) as a function of the map's tokens, in float64 with values of a dtype."""
    if given.matrix is None:
        return weight
    return torch.mm(weight, given.matrix).to(dtype).double()


def fold(
    weight: Tensor,
    matrix: Tensor,
    given: Input,
    mean: Tensor,
    inverse: Tensor,
    norm_scale: Tensor,
    norm_shift: Tensor,
    training: bool,
) -> Fold:
    """A layer and its batch norm as one.

    Args:
        weight: W (rows, C_in), in float64.
        matrix: see `matrix_of`.
        given: what the layer reads.
        mean, inverse: what it is normalised by, of the batch or running ones, (rows,), in float64.
        norm_scale, norm_shift: γ and β (rows,).
        training: whether these statistics are those of the batch.
    """
    scale, offset, excess = norm_scale.double() * inverse, norm_shift.double(), None
    if not training:
        excess = torch.mv(weight, given.mean) - mean
        offset = offset + scale * excess
    return Fold(weight, matrix, inverse, scale, offset, excess)


class FoldGradient(NamedTuple):
    """Gradients that follow from R and r, in float64; None where there is no dependence."""

    weight: Tensor
    """Gradient of W (rows, C_in)."""
    norm_scale: Tensor
    """Gradient of γ (rows,)."""
    norm_shift: Tensor
    """Gradient of β (rows,)."""
    covariance: Tensor | None
    """Gradient of the map's covariance K (C_m, C_m)."""
    given_matrix: Tensor | None
    """Gradient of A' (C_in, C_m), which stands for R where the projection is differentiated."""
    given_mean: Tensor
    """Gradient of μ (C_in,), which stands for r there."""


def differentiate(layer: Fold, given: Input, covariance: Tensor, outer: Tensor, total: Tensor) -> FoldGradient:
    """The gradient of a folded layer.

    Args:
        layer: the fold.
        given: what the layer reads.
        covariance: K of the map, over all processes.
        outer: R (rows, C_m), in float64. Everything is linear in it and in `total`: of sums that are a process's share,
            the gradients are the process's share.
        total: r (rows,).
    """
    d_scale = (outer * layer.matrix).sum(1)
    d_covariance = None
    given_mean = torch.zeros_like(given.mean)
    if layer.excess is None:
        d_matrix, d_covariance = through_variances(layer.matrix, covariance, layer.scale, layer.inverse, d_scale)
        d_matrix.addcmul_(outer, layer.scale[:, None])
    else:
        d_matrix = layer.scale[:, None] * outer
        d_scale = d_scale + total * layer.excess
        given_mean = torch.mv(layer.weight.T, layer.scale * total)
    weight, given_matrix = d_matrix, None
    if given.matrix is not None:
        weight, given_matrix = torch.mm(d_matrix, given.matrix.T), torch.mm(layer.weight.T, d_matrix)
    if layer.excess is not None:
        weight = weight + torch.outer(layer.scale * total, given.mean)
    return FoldGradient(weight, d_scale * layer.inverse, total, d_covariance, given_matrix, given_mean)
