"""Cases of one operator, checked by the rule of its tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from seqca.ops.shared.dispatch import use_backend
from seqca.ops.shared.operator import Call
from seqca.ops.verification.judge import leaves, mapped
from seqca.ops.verification.tolerance import Verdict, allowed, errors

from .case import DTYPES, Case, Check, Contender, Cost, Field, Inputs, Truth, fraction
from .execution import Execution
from .providers import operator_field


@dataclass(frozen=True)
class Arguments:
    """Arguments of a call, in the dtype of the case."""

    values: Mapping[str, Any]
    differentiable: tuple[str, ...]
    """Names of the arguments that have gradients."""
    gradients: list[Tensor] | None
    """Of the outputs; None where the output is one scalar."""


@dataclass(frozen=True)
class OperatorCase(Case):
    """An operator on arguments of one shape."""

    draw: Callable[[Generator], Arguments] = field(compare=False)
    """Fresh random arguments on the device; floating ones in the case's dtype."""
    reference: Callable[..., Any] = field(compare=False)
    least_cost: Cost
    call: Call
    modes: tuple[str, ...] = ("eager", "graph")
    channel_axis: int = -1
    """Where outputs and gradients have their channels, for the mean error per channel."""

    def cost(self, contender: Contender) -> Cost:
        """The same for all."""
        return self.least_cost

    def contenders(self) -> Field:
        """The backends of the package and the reference."""
        return operator_field(self.operator, self.reference, self.call, self.direction, self.modes)

    def inputs(self, generator: Generator) -> Inputs:
        """A fresh random set of arguments."""
        return as_inputs(self.draw(generator), DTYPES[self.dtype])

    def truth(self, contender: Contender, generator: Generator) -> Truth:
        """The reference in the case's dtype and in float64."""
        arguments = self.draw(generator)
        inputs = as_inputs(arguments, DTYPES[self.dtype])
        with use_backend("reference"):
            plain = Execution(Contender("reference", self.reference_of(contender), "reference"), self.direction)
            rough, exact = plain.evaluate(inputs), plain.evaluate(as_inputs(arguments, torch.float64))
        return Truth(inputs, rough, exact)

    def check(self, execution: Execution, truth: Truth) -> Check:
        """By the tolerance rule of `seqca.ops.verification.tolerance`."""
        results = execution.evaluate(truth.inputs)
        return judge(results, truth.rough, truth.exact, DTYPES[self.dtype], self.channel_axis)

    def reference_of(self, contender: Contender) -> Callable[..., Any]:
        """The plain mathematics that a contender must compute."""
        return self.reference


def as_inputs(arguments: Arguments, dtype: torch.dtype) -> Inputs:
    """Arguments in a dtype, as leaves with the strides they were drawn with."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.to(dtype).detach().requires_grad_()

    values = {
        name: mapped(leaf, value) if name in arguments.differentiable else value
        for name, value in arguments.values.items()
    }
    inputs = leaves([values[name] for name in arguments.differentiable])
    gradients = arguments.gradients
    return Inputs(values, inputs, None if gradients is None else [gradient.to(dtype) for gradient in gradients])


def judge(
    results: list[Tensor], rough: list[Tensor], exact: list[Tensor], dtype: torch.dtype, channel_axis: int
) -> Check:
    """Results against the reference in their dtype and in float64, one by one; the worst counts."""
    checks = []
    for i, (result, of_dtype, of_double) in enumerate(zip(results, rough, exact, strict=True)):
        bound = allowed(of_dtype, of_double, dtype, channel_axis)
        found = errors(result, of_double, channel_axis)
        verdict = Verdict(f"result {i}", found, bound)
        checks.append(Check(verdict.ok, max(map(fraction, found, bound)), str(verdict)))
    wrong = [check for check in checks if not check.ok]
    return max(wrong or checks, key=lambda check: check.worst)
