"""Batch norm, as the references have it."""

import pytest
import torch
from torch import Generator, Tensor

from seqca.ops.shared.sample import normal
from seqca.reference.batch_norm import batch_norm


def tokens_first(gradient: Tensor) -> Tensor:
    """The same values, in memory as attention sends them."""
    return gradient.flatten(2).mT.contiguous().mT.unflatten(2, gradient.shape[2:])


@pytest.mark.parametrize("running", [False, True], ids=["of the batch", "running"])
@pytest.mark.parametrize("images", [1, 2])
def test_the_gradient_does_not_depend_on_the_strides_of_what_comes_in(running: bool, images: int) -> None:
    g = Generator().manual_seed(0)
    x, gradient = (normal(images, 6, 4, 5, generator=g).float() for _ in range(2))
    weight, bias, mean, variance = (normal(6, generator=g).float() for _ in range(4))
    inputs = [y.requires_grad_() for y in (x, weight, bias)]
    statistics = (mean, variance.square()) if running else ()
    y = batch_norm(*inputs, 1e-5, *statistics)
    expected = torch.autograd.grad(y, inputs, gradient, retain_graph=True)
    for one, other in zip(torch.autograd.grad(y, inputs, tokens_first(gradient)), expected, strict=True):
        torch.testing.assert_close(one, other)
