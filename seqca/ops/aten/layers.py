"""The layers of the branches of `cross_attention`: parameters, what they are normalised by, folds and gradients.

First layers, values and projections are functions of a map's tokens, and work on matrices of channels is all that their
batch norms take. Layers of features stand behind a ReLU: their mean and variance come from a pass over the tokens, and
are put in here by whoever makes it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seqca.pairs import Branch

from ..shared.branches import layers_of
from ..shared.folded_variance import folded_variances
from .folding import Fold, Input, MapMoments, differentiate, fold, matrix_of


class BranchFold(NamedTuple):
    """The layers of a branch that are functions of its map's tokens."""

    projection: Fold | None
    given: Input
    """What the other layers read."""
    hidden: Fold
    values: Fold | None


class Sums(NamedTuple):
    """Of the gradient s of a folded layer, over the tokens x of a map with mean m; float64 when complete."""

    outer: Tensor
    """R = Σ s (x − m)ᵀ, (rows, C_m)."""
    total: Tensor
    """r = Σ s, (rows,)."""


class Layers:
    """The layers of all branches.

    Args:
        branches: of the call.
        weights, scales, shifts: of the layers.
        training: whether they are normalised by the batch.
        dtype: in which products take the matrices.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        weights: Sequence[Tensor],
        scales: Sequence[Tensor],
        shifts: Sequence[Tensor],
        training: bool,
        dtype: torch.dtype,
    ) -> None:
        self.branches, self._training, self._dtype = branches, training, dtype
        self.places = layers_of(branches)
        self.weights, self.scales, self.shifts = weights, scales, shifts
        self._rows = [weight.shape[0] for weight in weights]
        self.means: list[Tensor] = []
        """Means that layers are normalised by, in float64; empty where they are not known yet."""
        self.variances: list[Tensor] = []
        """Variances of what layers normalise; those of the batch divided by T."""
        self.inverse: list[Tensor] = []
        """1/√(variance + ε) of all layers."""

    def count(self, branch: int) -> int:
        """Number of layers of a branch."""
        return sum(layer is not None for layer in self.places[branch])

    def unknown(self) -> None:
        """Statistics are to be those of the batch, which `set_statistics` fills in."""
        self.means, self.variances, self.inverse = (
            [weight.new_empty(0, dtype=torch.float64) for weight in self.weights] for _ in range(3)
        )

    def running(self, means: Sequence[Tensor], variances: Sequence[Tensor], eps: float) -> None:
        """Statistics are running ones."""
        self.means, self.variances = [x.double() for x in means], [x.double() for x in variances]
        self.inverse = [(x + eps).rsqrt() for x in self.variances]

    def kept(self, means: Tensor, inverse: Tensor) -> None:
        """Statistics are those of the forward pass, one layer after the other."""
        self.means, self.inverse = list(means.split(self._rows)), list(inverse.split(self._rows))

    def set_statistics(self, layer: int, mean: Tensor, variance: Tensor, eps: float) -> None:
        """Puts the statistics of a layer in their places: those of the batch, the variance divided by T."""
        self.means[layer], self.variances[layer] = mean, variance
        self.inverse[layer] = (variance + eps).rsqrt()

    def folds(self, branch: int, moments: MapMoments, eps: float | None = None) -> BranchFold:
        """The folds of a branch by the moments of its map; with eps their statistics are computed first."""
        place, given = self.places[branch], Input(moments.mean)
        projection = values = None
        if place.projection is not None:
            projection = self._fold(place.projection, given, moments, eps)
            given = Input(projection.offset, projection.scaled(torch.float64))
        hidden = self._fold(place.hidden, given, moments, eps)
        if place.values is not None:
            values = self._fold(place.values, given, moments, eps)
        return BranchFold(projection, given, hidden, values)

    def _fold(self, layer: int, given: Input, moments: MapMoments, eps: float | None) -> Fold:
        weight = self.weights[layer].flatten(1).double()
        matrix = matrix_of(weight, given, self._dtype)
        if eps is not None:
            mean = torch.mv(weight, given.mean)
            self.set_statistics(layer, mean, folded_variances(matrix, moments.covariance), eps)
        statistics = (self.means[layer], self.inverse[layer])
        return fold(weight, matrix, given, *statistics, self.scales[layer], self.shifts[layer], self._training)


class ParameterGradients:
    """Gradients of weights, scales and shifts, in their dtypes, as they become known."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self.weights, self.scales, self.shifts = (
            [x.new_empty(x.shape) for x in tensors] for tensors in (layers.weights, layers.scales, layers.shifts)
        )

    def put(self, layer: int, weight: Tensor, scale: Tensor, shift: Tensor) -> None:
        """Puts the gradients of a layer in their places."""
        self.weights[layer].copy_(weight.view(self.weights[layer].shape))
        self.scales[layer].copy_(scale)
        self.shifts[layer].copy_(shift)

    def put_folded(
        self, branch: int, folds: BranchFold, moments: MapMoments, hidden: Sums, values: Sums | None
    ) -> Tensor:
        """Puts the gradients of the folded layers of a branch in their places; returns that of the map's covariance."""
        place = self._layers.places[branch]
        d_covariance = torch.zeros_like(moments.covariance)
        given_matrix, given_mean = None, torch.zeros_like(folds.given.mean)

        def take(layer: int, layer_fold: Fold, given: Input, sums: Sums) -> None:
            nonlocal given_matrix, given_mean, d_covariance
            own = differentiate(layer_fold, given, moments.covariance, *sums)
            self.put(layer, own.weight, own.norm_scale, own.norm_shift)
            if own.covariance is not None:
                d_covariance = d_covariance + own.covariance
            if own.given_matrix is not None:
                given_matrix = own.given_matrix if given_matrix is None else given_matrix + own.given_matrix
                given_mean = given_mean + own.given_mean

        take(place.hidden, folds.hidden, folds.given, hidden)
        if place.values is not None and folds.values is not None and values is not None:
            take(place.values, folds.values, folds.given, values)
        if place.projection is not None and folds.projection is not None and given_matrix is not None:
            take(place.projection, folds.projection, Input(moments.mean), Sums(given_matrix, given_mean))
        return d_covariance
