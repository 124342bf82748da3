"""A case whose providers do what a test says, on a clock that only they move."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.harness.case import Case, Cost, Expected, Inputs, Provider, Providers
from benchmarks.harness.run import Conditions, run_case
from benchmarks.harness.timing import HostClock
from seqca.ops.verification.draws import Allowance


class FakeTime:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def conditions(self) -> Conditions:
        return Conditions(HostClock(self.now), seconds=0.01, seed=0)


class Largest(NamedTuple):
    largest: float


@dataclass(frozen=True)
class DoublingCase(Case):
    """y = 2x, by providers given as functions."""

    functions: dict[str, Callable[[Tensor], Tensor]] = field(compare=False)
    unavailable: dict[str, str] = field(default_factory=dict)

    def cost(self, provider: Provider) -> Cost:
        return Cost(80, 10, 0)

    def providers(self) -> Providers:
        return Providers([Provider(name, function) for name, function in self.functions.items()], self.unavailable)

    def inputs(self, generator: torch.Generator) -> Inputs:
        x = torch.randn(10, generator=generator).requires_grad_()
        return Inputs({"x": x}, [x], [torch.ones(10)])

    def expected(self, provider: Provider, generator: torch.Generator) -> Expected:
        inputs = self.inputs(generator)
        right = self.judged([2 * inputs.leaves[0].detach(), torch.full((10,), 2.0)])
        return Expected(inputs, right, {what: Allowance((1e-6,), 1.0, torch.float32) for what in right})

    def norms(self, actual: Tensor, exact: Tensor) -> Largest:
        return Largest(float((actual - exact).abs().max()))


def doubling(
    time: FakeTime, name: str = "one", unavailable: dict[str, str] | None = None, **seconds: float
) -> DoublingCase:
    """A case whose providers, by name, are right and take so many seconds."""

    def provider(duration: float) -> Callable[[Tensor], Tensor]:
        def function(x: Tensor) -> Tensor:
            time.seconds += duration
            return x * torch.full((10,), 2.0)  # keeps 40 bytes for backward

        return function

    functions = {key: provider(value) for key, value in seconds.items()}
    return DoublingCase("doubling", name, "fp32", "both", "cpu", {"tokens": 10}, functions, unavailable or {})


def results_of(*cases: Case, time: FakeTime, device: str = "cpu") -> dict[str, Any]:
    """What a run of these cases writes, without touching a file."""
    limits = {
        "copy bandwidth": {"value": 1e9, "how": "made up"},
        "matrix rate": {"fp32": {"value": 1e10, "how": "made up"}},
        "exponential rate": {"value": 1e9, "how": "made up"},
    }
    environment = {
        "device": device, "gpu": "Some GPU", "processor": "some processor", "threads": 1, "torch": "2.0",
        "commit": "0123456789", "dirty": False, "trees": {"kernels": None},
        "tf32": {"matrix products": False, "convolutions": True},
    }  # fmt: skip
    records = {case.name: run_case(case, time.conditions(), lambda line: None) for case in cases}
    head = {"format": 2, "environment": environment, "settings": {}, "seconds": 90.0, "limits": limits}
    return {**head, "cases": records}
