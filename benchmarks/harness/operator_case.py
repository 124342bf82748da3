"""Cases of one operator: its reference, and every backend of the package."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from seqca.ops.shared.dispatch import BACKENDS, refusal, use_backend
from seqca.ops.shared.operator import OPERATORS, Call
from seqca.ops.verification.draws import Draw, Results, allowances, moved, plain_torch
from seqca.ops.verification.judge import leaves, mapped
from seqca.ops.verification.tolerance import Errors, errors

from .case import DTYPES, MODES, Case, Cost, Expected, Inputs, Provider, Providers, in_mode
from .execution import Execution


@dataclass(frozen=True)
class Arguments:
    """Arguments of a call, in the dtype of the case."""

    values: Mapping[str, Any]
    differentiable: tuple[str, ...]
    """Names of the arguments that have gradients."""
    gradients: list[Tensor] | None
    """Of the outputs; None where the output is one scalar."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Arguments":
        """The arguments with what is differentiable, and the gradients, passed through a function."""
        values = {
            name: mapped(change, value) if name in self.differentiable else value for name, value in self.values.items()
        }
        gradients = None if self.gradients is None else [change(gradient) for gradient in self.gradients]
        return Arguments(values, self.differentiable, gradients)

    def inputs(self, dtype: torch.dtype) -> Inputs:
        """The arguments in a dtype, as leaves with the strides they were drawn with."""
        values, _, gradients = vars(self.changed(lambda x: x.to(dtype).detach())).values()
        inputs = leaves([values[name] for name in self.differentiable])
        for x in inputs:
            x.requires_grad_()
        return Inputs(values, inputs, gradients)


PARAMETERS = {
    *("weight", "bias", "weights", "scales", "shifts"),
    *("norm_weight", "norm_bias", "norm_weights", "norm_biases", "prediction_weight", "prediction_bias"),
}
"""Arguments of operators that are parameters of layers, by the names that they have everywhere."""


@dataclass(frozen=True)
class OperatorCase(Case):
    """An operator on arguments of one shape."""

    draw: Callable[[Generator], Arguments] = field(compare=False)
    """Fresh random arguments on the device; floating ones in the case's dtype."""
    least_cost: Cost
    call: Call
    modes: tuple[str, ...] = ("eager", "graph")
    reference: Callable[..., Any] | None = field(default=None, compare=False)
    """The plain mathematics of the same arguments; by default the operator's."""
    published: Callable[..., Any] | None = field(default=None, compare=False)
    """The sequence of operators that the published network has in its place, if the baseline is to be that."""
    compiled_baselines: Mapping[str, Callable[..., Any]] = field(default_factory=dict, compare=False)
    """Others that compute the same, by name, and are made to be compiled."""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Those that cannot take part, with the reason."""

    @property
    def baseline(self) -> str:
        """The published sequence, where the case has it, else the reference."""
        return "reference" if self.published is None else "published"

    def cost(self, provider: Provider) -> Cost:
        """The same for all."""
        return self.least_cost

    def providers(self) -> Providers:
        """The baselines and the backends of the package."""
        providers, operator = Providers([], dict(self.refusals)), OPERATORS[self.operator]

        def add(name: str, function: Callable[..., Any], backend: str, modes: Iterable[str]) -> None:
            for mode in modes:
                provider = Provider(in_mode(name, mode), function, backend, mode)
                providers.add(provider, self.device, self.direction, self.modes)

        add(self.baseline, self.published or self.reference or operator.reference, "reference", MODES)
        for name, function in self.compiled_baselines.items():
            provider = Provider(name, function, "reference", "compiled")
            providers.add(provider, self.device, self.direction, self.modes)
        for backend in BACKENDS[1:]:
            if (reason := backend_refusal(self.operator, backend, self.call)) is not None:
                providers.unavailable[backend] = reason
            else:
                add(backend, operator.function, backend, ("eager", "graph"))
        return providers

    def inputs(self, generator: Generator) -> Inputs:
        """A fresh random set of arguments."""
        return self.draw(generator).inputs(DTYPES[self.dtype])

    def left_out(self, inputs: Inputs) -> list[Tensor]:
        """The parameters among the arguments."""
        return leaves([value for name, value in inputs.arguments.items() if name in PARAMETERS])

    def expected(self, provider: Provider, generator: Generator) -> Expected:
        """The reference in float64, and draws of its errors in the case's dtype."""
        arguments, steps = self.draw(generator), Generator().manual_seed(0)
        plain = Execution(Provider("reference", self.reference_of(provider), "reference"), self.direction)

        def evaluated(arguments: Arguments, dtype: torch.dtype) -> Results:
            return self.judged(plain.evaluate(arguments.inputs(dtype)))

        def draw() -> Draw:
            near = arguments.changed(lambda x: moved(x, steps))
            return Draw(evaluated(near, DTYPES[self.dtype]), evaluated(near, torch.float64))

        with use_backend("reference"), plain_torch():
            exact = evaluated(arguments, torch.float64)
            return Expected(arguments.inputs(DTYPES[self.dtype]), exact, allowances(draw, self.norms))

    def reference_of(self, provider: Provider) -> Callable[..., Any]:
        """The plain mathematics that a provider must compute."""
        return self.published or self.reference or OPERATORS[self.operator].reference

    def norms(self, actual: Tensor, exact: Tensor) -> Errors:
        """The largest error, and the mean error of the worst channel."""
        return errors(actual, exact, OPERATORS[self.operator].channel_axis)


def backend_refusal(operator: str, backend: str, call: Call) -> str | None:
    """Why a backend cannot take part, or None."""
    reason = refusal(OPERATORS[operator], backend, call)
    if reason is None and backend == "triton" and call.device == "cpu":
        return "runs here in Triton's interpreter, whose time says nothing"
    return reason


def normal(shape: tuple[int, ...], dtype: str, generator: Generator) -> Tensor:
    """Standard normal values on the generator's device, in a dtype."""
    return torch.randn(shape, generator=generator, device=generator.device).to(DTYPES[dtype])
