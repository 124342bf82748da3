"""Runs operators on samples and judges them by the tolerance rule; tests and `selftest` share it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ..shared.dispatch import use_backend
from ..shared.operator import Operator
from ..shared.sample import Sample
from .tolerance import Verdict, allowed, errors

Results = dict[str, Tensor]
"""Outputs and gradients by a name made for reading."""


def leaves(tree: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)):
        return []
    return [tensor for branch in tree for tensor in leaves(branch)]


def mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same lists and tensors, each tensor passed through a function."""
    if isinstance(tree, Tensor):
        return function(tree)
    return [mapped(function, branch) for branch in tree] if isinstance(tree, (list, tuple)) else tree


def prepared(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    """A sample whose differentiable tensors are changed, say rounded or laid out otherwise, and are leaves."""

    def leaf(tensor: Tensor) -> Tensor:
        return change(tensor).detach().requires_grad_()

    arguments = {
        name: mapped(leaf, value) if name in sample.differentiable else value
        for name, value in sample.arguments.items()
    }
    return Sample(arguments, sample.differentiable)


def rounded(sample: Sample, dtype: torch.dtype, device: str = "cpu") -> Sample:
    """A sample in a dtype and on a device. For float64 the values are those of float32, see `allowed`."""
    narrow = torch.float32 if dtype == torch.float64 else dtype
    moved = {name: mapped(lambda x: x.to(device), value) for name, value in sample.arguments.items()}
    return prepared(Sample(moved, sample.differentiable), lambda x: x.to(narrow).to(dtype))


def cotangents(operator: Operator, sample: Sample, generator: Generator) -> list[Tensor]:
    """Random gradients of the outputs, in their dtype and on their device."""
    with torch.no_grad(), use_backend("reference"):
        outputs = leaves(operator.function(**sample.arguments))
    narrow = [torch.float32 if x.dtype == torch.float64 else x.dtype for x in outputs]
    drawn = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in outputs]
    return [g.to(n).to(x) for g, n, x in zip(drawn, narrow, outputs, strict=True)]


def evaluate(function: Callable[..., Any], sample: Sample, gradients: Sequence[Tensor]) -> Results:
    """Outputs of a function, and the gradients of the differentiable arguments."""
    outputs = leaves(function(**sample.arguments))
    inputs = {
        f"gradient of {name}[{i}]": tensor
        for name in sample.differentiable
        for i, tensor in enumerate(leaves(sample.arguments[name]))
    }
    differentiated = torch.autograd.grad(outputs, list(inputs.values()), gradients)
    results = {f"output[{i}]": output.detach() for i, output in enumerate(outputs)}
    return results | dict(zip(inputs, differentiated, strict=True))


def reference_results(operator: Operator, sample: Sample, gradients: Sequence[Tensor], dtype: torch.dtype) -> Results:
    """What the reference computes in a dtype from the values of a sample."""
    with use_backend("reference"):
        converted = prepared(sample, lambda x: x.to(dtype))
        return evaluate(operator.function, converted, [g.to(dtype) for g in gradients])


def judge(operator: Operator, sample: Sample, gradients: Sequence[Tensor], results: Results) -> list[Verdict]:
    """Results of a sample, in its dtype, against the reference by the tolerance rule."""
    dtype = leaves(sample.arguments[sample.differentiable[0]])[0].dtype
    rough_dtype = torch.float32 if dtype == torch.float64 else dtype
    exact = reference_results(operator, sample, gradients, torch.float64)
    rough = reference_results(operator, sample, gradients, rough_dtype)
    axis = operator.channel_axis
    return [
        Verdict(what, errors(result, exact[what], axis), allowed(rough[what], exact[what], dtype, axis))
        for what, result in results.items()
    ]
