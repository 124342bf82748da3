"""What every operator does when it is differentiated twice, or forwards."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from seqca.ops.shared.dispatch import use_backend
from seqca.ops.shared.operator import OPERATORS, Operator
from seqca.ops.verification.judge import inputs_of, leaves, mapped

from .calls import FUSED, asked_of_torch, both, drawn, first_sample

KEEPS_NO_ARGUMENT = {"softplus"}
"""What torch.compile says of a second derivative through these alone, as through torch.exp: an input is not used."""


@pytest.mark.parametrize(("operator", "backend"), asked_of_torch(FUSED))
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_second_derivative_is_refused(operator: Operator, backend: str, compiled: bool) -> None:
    arguments, gradients = first_sample(operator, tokens=7)
    gradients = [g.requires_grad_() for g in gradients]
    inputs = inputs_of(arguments)
    with use_backend(backend):
        outputs = leaves(both(operator.function)[compiled](**arguments.arguments))
        pairs = [(x, g) for x, g in zip(outputs, gradients, strict=True) if x.requires_grad]
        outputs, gradients = zip(*pairs, strict=True)
        first = torch.autograd.grad(outputs, inputs, gradients, create_graph=True)
    refusal = r"second derivative|double backward"
    if compiled and operator.name in KEEPS_NO_ARGUMENT:
        refusal += r"|appears to not have been used in the graph"
    for source in (*inputs, *gradients):
        with pytest.raises((NotImplementedError, RuntimeError), match=refusal):
            torch.autograd.grad(sum(d.square().sum() for d in first), source, retain_graph=True)


@pytest.mark.parametrize(("operator", "backend"), asked_of_torch(FUSED))
def test_a_forward_mode_derivative_is_refused(operator: Operator, backend: str) -> None:
    arguments, _ = first_sample(operator, tokens=7)
    with use_backend(backend), forward_ad.dual_level():
        dual = {
            name: mapped(lambda x: forward_ad.make_dual(x.detach(), torch.ones_like(x)), value)
            if name in arguments.differentiable
            else value
            for name, value in arguments.arguments.items()
        }
        with pytest.raises(NotImplementedError, match=f"{operator.name}: forward-mode derivatives"):
            operator.function(**dual)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda operator: operator.name)
def test_the_reference_has_a_second_derivative(operator: Operator) -> None:
    arguments, gradients = drawn(operator, next(iter(operator.samples)), torch.float64, tokens=3, channels=2)
    inputs = inputs_of(arguments)

    def function(*_: Tensor) -> tuple[Tensor, ...]:  # gradgradcheck changes the inputs in place
        with use_backend("reference"):
            return tuple(x for x in leaves(operator.function(**arguments.arguments)) if x.requires_grad)

    gradients = gradients[: len(function())]
    # On a GPU the gradient of torch's bilinear upsampling adds up in any order.
    tolerance = 1e-12 if inputs[0].is_cuda else 0.0
    assert torch.autograd.gradgradcheck(function, inputs, gradients, nondet_tol=tolerance)
