"""Variances of 1×1 convolutions by the covariance of their map, against autograd."""

import torch
from torch import Generator

from seqca.ops.shared.folded_variance import folded_variances, through_variances
from seqca.ops.shared.sample import normal

EPS = 1e-3


def test_gradients_through_variances_are_those_of_autograd() -> None:
    g = Generator().manual_seed(0)
    tokens = normal(2, 5, 40, generator=g)
    weight = normal(2, 3, 5, generator=g).requires_grad_()
    covariance = (tokens @ tokens.mT / 40).requires_grad_()
    gamma, d_scale = normal(2, 3, generator=g), normal(2, 3, generator=g)
    inverse = ((weight @ covariance @ weight.mT).diagonal(dim1=1, dim2=2) + EPS).rsqrt()
    expected = torch.autograd.grad(gamma * inverse, (weight, covariance), d_scale)

    weight, covariance, inverse = weight.detach(), covariance.detach(), inverse.detach()
    torch.testing.assert_close((folded_variances(weight, covariance) + EPS).rsqrt(), inverse)
    found = through_variances(weight, covariance, gamma * inverse, inverse, d_scale)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_variance_that_cancels_is_0_and_has_no_gradient() -> None:
    weight = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 1.0 + 1e-15], [1.0 + 1e-15, 1.0]], dtype=torch.float64)
    assert folded_variances(weight, covariance).tolist()[0] == 0
    ones = torch.ones(2, dtype=torch.float64)
    d_weight, d_covariance = through_variances(weight, covariance, ones, ones, ones)
    assert not d_weight[0].any() and d_weight[1].any()
    torch.testing.assert_close(d_covariance, torch.full((2, 2), -0.5, dtype=torch.float64))
