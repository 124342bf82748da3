"""Runs operators on samples and judges them by the tolerance rule; tests and `selftest` share it."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
from torch import Generator, Tensor

from ..shared.dispatch import use_backend
from ..shared.operator import Operator
from ..shared.sample import Sample
from .draws import (
    Allowance,
    Compute,
    Norms,
    Results,
    allowances,
    as_drawn,
    compact,
    drawn_from,
    exact_results,
    plain_torch,
    verdicts,
)
from .precision import without_tf32
from .tolerance import Verdict, errors


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
    """The same lists and tensors, each tensor passed through a function; one that stands twice is passed once."""
    results: dict[int, Tensor] = {}

    def of(branch: Any) -> Any:
        if isinstance(branch, Tensor):
            if id(branch) not in results:
                results[id(branch)] = function(branch)
            return results[id(branch)]
        return [of(each) for each in branch] if isinstance(branch, (list, tuple)) else branch

    return of(tree)


def prepared(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    """A sample whose differentiable tensors are changed, say rounded or laid out otherwise, and are leaves.

    Statistics stay in float32 where half precision would be made of them.
    """

    def leaf(name: str, tensor: Tensor) -> Tensor:
        changed = change(tensor)
        if name in sample.statistics and changed.dtype.itemsize == 2:
            changed = tensor.float()
        return changed.detach().requires_grad_()

    arguments = {
        name: mapped(partial(leaf, name), value) if name in sample.differentiable else value
        for name, value in sample.arguments.items()
    }
    return sample._replace(arguments=arguments)


def rounded(sample: Sample, dtype: torch.dtype, device: str = "cpu") -> Sample:
    """A sample in a dtype and on a device. For float64 the values are those of float32, see `verdict`."""
    narrow = torch.float32 if dtype == torch.float64 else dtype
    moved = {name: mapped(lambda x: x.to(device), value) for name, value in sample.arguments.items()}
    return prepared(sample._replace(arguments=moved), lambda x: x.to(narrow).to(dtype))


def cotangents(operator: Operator, sample: Sample, generator: Generator) -> list[Tensor]:
    """Random gradients of the outputs, in their dtype and on their device."""
    with torch.no_grad(), use_backend("reference"), plain_torch():
        outputs = leaves(operator.function(**sample.arguments))
    narrow = [torch.float32 if x.dtype == torch.float64 else x.dtype for x in outputs]
    drawn = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in outputs]
    return [g.to(n).to(x) for g, n, x in zip(drawn, narrow, outputs, strict=True)]


def evaluate(function: Callable[..., Any], sample: Sample, gradients: Sequence[Tensor]) -> Results:
    """Outputs of a function, and the gradients of the differentiable arguments; without TF32, see `without_tf32`."""
    inputs = {
        f"gradient of {name}[{i}]": tensor
        for name in sample.differentiable
        for i, tensor in enumerate(leaves(sample.arguments[name]))
    }
    with without_tf32():
        outputs = leaves(function(**sample.arguments))
        differentiable = [(x, g) for x, g in zip(outputs, gradients, strict=True) if x.requires_grad]
        differentiated = torch.autograd.grad(
            [x for x, _ in differentiable], list(inputs.values()), [g for _, g in differentiable]
        )
    results = {f"output[{i}]": output.detach() for i, output in enumerate(outputs)}
    return results | dict(zip(inputs, differentiated, strict=True))


def inputs_of(sample: Sample) -> list[Tensor]:
    """The tensors that have gradients, in order, each once."""
    return list({id(x): x for x in leaves([sample.arguments[name] for name in sample.differentiable])}.values())


def compute_of(operator: Operator, sample: Sample, backend: str = "reference") -> Compute:
    """A backend on a sample, as a function of the tensors that have gradients, then the outputs' gradients."""

    def compute(inputs: Sequence[Tensor]) -> Results:
        remaining = iter(inputs)
        with use_backend(backend):
            converted = prepared(sample, lambda _: next(remaining))
            return evaluate(operator.function, converted, list(remaining))

    return compute


def judge(
    operator: Operator,
    sample: Sample,
    gradients: Sequence[Tensor],
    results: Results,
) -> list[Verdict]:
    """Results of a sample, in its dtype, against the reference by the tolerance rule.

    Args:
        operator: whose reference.
        sample: that the results were computed from.
        gradients: of the outputs.
        results: under judgement.
    """
    compute, inputs = compute_of(operator, sample), [*inputs_of(sample), *gradients]
    norms = partial(errors, channel_axis=operator.channel_axis)
    exact = exact_results(compute, inputs)
    allowance = _allowances(operator, sample, compute, as_drawn(inputs), norms)
    return verdicts(results, exact, allowance, norms)


_REMEMBERED = 64
_remembered: OrderedDict[bytes, dict[str, Allowance]] = OrderedDict()


def _allowances(
    operator: Operator,
    sample: Sample,
    compute: Compute,
    inputs: Sequence[Tensor],
    norms: Norms,
) -> dict[str, Allowance]:
    """Those of `allowances`, remembered by all arguments, since backends share them."""
    others = {name: value for name, value in sample.arguments.items() if name not in sample.differentiable}
    key = blake2b(f"{operator.name} {[value for value in others.values() if not leaves(value)]}".encode())
    for x in (*map(compact, leaves(others)), *inputs):
        key.update(f"{x.dtype} {tuple(x.shape)} {x.stride()} {x.device}".encode())
        key.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    found = _remembered.pop(key.digest(), None) or allowances(drawn_from(compute, inputs), norms)
    _remembered[key.digest()] = found
    if len(_remembered) > _REMEMBERED:
        _remembered.popitem(last=False)
    return found
