"""Batch norm folded by moments, against autograd through torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from seqca.ops.aten.folding import Fold, Input, MapMoments, differentiate, fold, matrix_of
from seqca.ops.shared.folded_variance import folded_variances
from seqca.ops.shared.sample import normal

EPS = 1e-3
C_MAP, C, ROWS, TOKENS = 7, 5, 6, 40


class Layer:
    """A convolution's matrix, γ, β, and the running statistics."""

    def __init__(self, rows: int, columns: int, training: bool, generator: Generator) -> None:
        self.weight = normal(rows, columns, generator=generator).requires_grad_()
        self.scale = normal(rows, generator=generator)
        self.scale[:2] = torch.tensor([0.0, -1.5])
        self.scale.requires_grad_()
        self.shift = normal(rows, generator=generator).requires_grad_()
        self.mean = None if training else normal(rows, generator=generator)
        self.variance = None if training else 0.5 + normal(rows, generator=generator).square()

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weight, self.scale, self.shift

    def of(self, x: Tensor) -> Tensor:
        """By torch, of tokens (T, columns)."""
        statistics = (self.mean, self.variance)
        return F.batch_norm(x @ self.weight.T, *statistics, self.scale, self.shift, self.mean is None, eps=EPS)

    def folded(self, given: Input, moments: MapMoments) -> Fold:
        weight = self.weight.detach()
        matrix = matrix_of(weight, given, torch.float64)
        mean = torch.mv(weight, given.mean) if self.mean is None else self.mean
        variance = folded_variances(matrix, moments.covariance) if self.variance is None else self.variance
        norm = (self.scale.detach(), self.shift.detach())
        return fold(weight, matrix, given, mean, (variance + EPS).rsqrt(), *norm, self.mean is None)


def moments_of(x: Tensor, training: bool) -> MapMoments:
    """In evaluation some centre."""
    if not training:
        return MapMoments(x[0], torch.zeros(C_MAP, C_MAP, dtype=torch.float64))
    centred = x - x.mean(0)
    return MapMoments(x.mean(0), centred.T @ centred / len(x))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("projected", [False, True], ids=["", "projected"])
def test_a_folded_layer_and_its_gradient_are_those_of_batch_norm(training: bool, projected: bool) -> None:
    g = Generator().manual_seed(0)
    x = (3 + normal(TOKENS, C_MAP, generator=g)).requires_grad_()
    projection = Layer(C, C_MAP, training, g)
    layer = Layer(ROWS, C if projected else C_MAP, training, g)
    expected = layer.of(projection.of(x) if projected else x)
    s = normal(TOKENS, ROWS, generator=g)
    parameters = (*layer.parameters(), *(projection.parameters() if projected else ()))
    gradients = torch.autograd.grad(expected, (x, *parameters), s)

    tokens = x.detach()
    moments = moments_of(tokens, training)
    plain = given = Input(moments.mean)
    if projected:
        first = projection.folded(plain, moments)
        given = Input(first.offset, first.scaled(torch.float64))
    folded = layer.folded(given, moments)
    centred = tokens - moments.mean
    torch.testing.assert_close(centred @ folded.scaled(torch.float64).T + folded.offset, expected)

    own = differentiate(folded, given, moments.covariance, s.T @ centred, s.sum(0))
    found = [own.weight, own.norm_scale, own.norm_shift]
    parts = [own]
    if projected:
        assert own.given_matrix is not None
        inner = differentiate(first, plain, moments.covariance, own.given_matrix, own.given_mean)
        found += [inner.weight, inner.norm_scale, inner.norm_shift]
        parts.append(inner)
    d_tokens = s @ folded.scaled(torch.float64)
    for part in parts:
        if part.covariance is not None:
            d_tokens += 2 / TOKENS * centred @ part.covariance
    if training:
        d_tokens -= d_tokens.mean(0)
    for one, other in zip([d_tokens, *found], gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
