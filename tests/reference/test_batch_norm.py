"""Batch norm, as the references have it."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from seqca.ops.shared.sample import normal
from seqca.ops.verification.draws import Results, judged
from seqca.reference.batch_norm import batch_norm


def tokens_first(gradient: Tensor) -> Tensor:
    """The same values, in memory as attention sends them."""
    return gradient.flatten(2).mT.contiguous().mT.unflatten(2, gradient.shape[2:])


def gradients(inputs: Sequence[Tensor], statistics: Sequence[Tensor]) -> Results:
    """Of a map, of the scale and of the shift, from these three and the gradient of the output."""
    x, weight, bias = (y.detach().requires_grad_() for y in inputs[:3])
    y = batch_norm(x, weight, bias, 1e-5, *(z.to(x.dtype) for z in statistics))
    found = torch.autograd.grad(y, (x, weight, bias), inputs[3])
    return dict(zip(("map", "scale", "shift"), found, strict=True))


@pytest.mark.parametrize("running", [False, True], ids=["of the batch", "running"])
@pytest.mark.parametrize("images", [1, 2])
def test_the_gradient_does_not_depend_on_the_strides_of_what_comes_in(running: bool, images: int) -> None:
    g = Generator().manual_seed(0)
    x, gradient = (normal(images, 6, 4, 5, generator=g).float() for _ in range(2))
    weight, bias, mean, variance = (normal(6, generator=g).float() for _ in range(4))
    of = partial(gradients, statistics=(mean, variance.square()) if running else ())
    results = of([x, weight, bias, tokens_first(gradient)])
    for verdict in judged(of, [x, weight, bias, gradient], results, channel_axis=1):
        assert verdict.ok, str(verdict)
