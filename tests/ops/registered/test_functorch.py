"""The transforms of torch.func, and batches of gradients, of every registered operator: they work, or say how to get
them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_map

from seqca.ops.shared.dispatch import use_backend
from seqca.ops.shared.operator import OPERATORS, Operator
from seqca.ops.verification.judge import leaves, rounded

from .calls import DEVICE, FUSED, asked_of_torch

SAMPLES = [
    pytest.param(operator, sample, id=f"{operator.name}-{sample}".replace(" ", "_"))
    for operator in OPERATORS.values()
    for sample in operator.samples
]
Function = Callable[..., Any]


def function_of(operator: Operator, sample: str, dtype: torch.dtype) -> tuple[Function, tuple[Any, ...]]:
    """The operator as a function of its differentiable arguments, and these."""
    drawn = rounded(operator.samples[sample](6, 3, Generator().manual_seed(0)), dtype, DEVICE)
    names = drawn.differentiable
    others = {name: value for name, value in drawn.arguments.items() if name not in names}

    def function(*values: Any) -> Any:
        return operator.function(**dict(zip(names, values, strict=True)), **others)

    return function, tuple(detached(drawn.arguments[name]) for name in names)


def detached(tree: Any) -> Any:
    """Constants."""
    return tree_map(Tensor.detach, tree)


def twice(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Every tensor and a multiple of it, stacked."""
    return tree_map(lambda x: torch.stack([x, 0.75 * x]), values)


def total(function: Function) -> Function:
    """The sum of all outputs."""
    return lambda *values: sum(x.sum() for x in leaves(function(*values)))


def gradients(function: Function, values: tuple[Any, ...]) -> list[Tensor]:
    """Of the sum of all outputs, by autograd."""
    inputs = tree_map(lambda x: x.detach().requires_grad_(), values)
    return list(torch.autograd.grad(total(function)(*inputs), leaves(inputs)))


def all_arguments(values: tuple[Any, ...]) -> tuple[int, ...]:
    """The numbers of all arguments."""
    return tuple(range(len(values)))


def by_grad(function: Function, values: tuple[Any, ...]) -> tuple[Any, Any]:
    return grad(total(function), all_arguments(values))(*values), gradients(function, values)


def by_vjp(function: Function, values: tuple[Any, ...]) -> tuple[Any, Any]:
    outputs, pull = vjp(function, *values)
    return pull(tree_map(torch.ones_like, outputs)), gradients(function, values)


def by_jacrev(function: Function, values: tuple[Any, ...]) -> tuple[Any, Any]:
    return jacrev(total(function), all_arguments(values))(*values), gradients(function, values)


def by_vmap(function: Function, values: tuple[Any, ...]) -> tuple[Any, Any]:
    mapped = vmap(function)(*twice(values))
    each = [leaves(function(*tree_map(lambda x: x[i], twice(values)))) for i in range(2)]  # noqa: B023
    return mapped, [torch.stack(pair) for pair in zip(*each, strict=True)]


def by_vmap_of_grad(function: Function, values: tuple[Any, ...]) -> tuple[Any, Any]:
    mapped = vmap(grad(total(function), all_arguments(values)))(*twice(values))
    each = [gradients(function, tree_map(lambda x: x[i], twice(values))) for i in range(2)]  # noqa: B023
    return mapped, [torch.stack(pair) for pair in zip(*each, strict=True)]


def by_gradients_behind_vmap(function: Function, values: tuple[Any, ...]) -> tuple[Any, Any]:
    mapped = gradients(vmap(function), twice(values))
    each = [gradients(function, tree_map(lambda x: x[i], twice(values))) for i in range(2)]  # noqa: B023
    return mapped, [torch.stack(pair) for pair in zip(*each, strict=True)]


def by_batched_gradients(function: Function, values: tuple[Any, ...]) -> tuple[Any, Any]:
    inputs = tree_map(lambda x: x.detach().requires_grad_(), values)
    outputs = [x for x in leaves(function(*inputs)) if x.requires_grad]
    each = [[step * x.detach().cos() for x in outputs] for step in (1, 2)]
    batch = [torch.stack(pair) for pair in zip(*each, strict=True)]

    def pull(weights: list[Tensor], batched: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, leaves(inputs), weights, retain_graph=True, is_grads_batched=batched)

    return pull(batch, True), [torch.stack(p) for p in zip(*(pull(x, False) for x in each), strict=True)]


def by_jvp(function: Function, values: tuple[Any, ...]) -> tuple[Any, Any]:
    derivative = jvp(total(function), values, tree_map(torch.cos, values))[1]
    pairs = zip(gradients(function, values), leaves(values), strict=True)
    return derivative, sum((gradient * x.cos()).sum() for gradient, x in pairs)


def by_jacfwd(function: Function, values: tuple[Any, ...]) -> tuple[Any, Any]:
    first = leaves(values)[0]
    if first is not values[0]:  # torch refuses lists
        return (), ()
    return jacfwd(total(function))(*values), gradients(function, values)[0]


TRANSFORMS = {
    transform.__name__: transform
    for transform in (
        by_grad,
        by_vjp,
        by_jacrev,
        by_vmap,
        by_vmap_of_grad,
        by_gradients_behind_vmap,
        by_batched_gradients,
        by_jvp,
        by_jacfwd,
    )
}


@pytest.mark.parametrize(("operator", "sample"), SAMPLES)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_the_reference_can_be_transformed(operator: Operator, sample: str, transform: Callable[..., Any]) -> None:
    function, values = function_of(operator, sample, torch.float64)
    with use_backend("reference"):
        found, expected = transform(function, values)
    torch.testing.assert_close(leaves([found]), leaves([expected]))


@pytest.mark.parametrize(("operator", "backend"), asked_of_torch(FUSED))
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_fused_backend_computes_the_same_or_says_who_does(
    operator: Operator, backend: str, transform: Callable[..., Any]
) -> None:
    function, values = function_of(operator, next(iter(operator.samples)), torch.float32)
    with use_backend(backend):
        try:
            found, expected = transform(function, values)
        except NotImplementedError as error:
            assert str(error).startswith(f"{operator.name}: ")
            assert "seqca.use_backend('reference') computes" in str(error)
            return
    for one, other in zip(leaves([found]), leaves([expected]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("operator", "backend"), asked_of_torch(FUSED))
def test_a_failure_without_a_transform_keeps_its_words(
    operator: Operator, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no memory")

    function, values = function_of(operator, next(iter(operator.samples)), torch.float32)
    monkeypatch.setattr(operator.implementation(backend), "forward", fail)
    with use_backend(backend), pytest.raises(RuntimeError, match="no memory"):
        function(*values)
