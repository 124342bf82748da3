"""A case whose contenders do what a test says, on a clock that only they move."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Check, Contender, Cost, Field, Inputs, Truth, fraction
from benchmarks.clock import HostClock
from benchmarks.execution import Execution
from benchmarks.run import Conditions


class FakeTime:
    """Time that stands still until somebody moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def conditions(self) -> Conditions:
        return Conditions(HostClock(self.now), seconds=0.01, seed=0)


@dataclass(frozen=True)
class DoublingCase(Case):
    """y = 2x, by contenders given as functions."""

    functions: dict[str, Callable[[Tensor], Tensor]] = field(compare=False)
    absent: dict[str, str] = field(default_factory=dict)

    def cost(self, contender: Contender) -> Cost:
        return Cost(80, 10, 0)

    def contenders(self) -> Field:
        return Field([Contender(name, function) for name, function in self.functions.items()], self.absent)

    def inputs(self, generator: torch.Generator) -> Inputs:
        x = torch.randn(10, generator=generator).requires_grad_()
        return Inputs({"x": x}, [x], [torch.ones(10)])

    def truth(self, contender: Contender, generator: torch.Generator) -> Truth:
        inputs = self.inputs(generator)
        right = [2 * inputs.leaves[0].detach(), torch.full((10,), 2.0)]
        return Truth(inputs, right, right)

    def check(self, execution: Execution, truth: Truth) -> Check:
        error = max(
            float((a - b).abs().max()) for a, b in zip(execution.evaluate(truth.inputs), truth.exact, strict=True)
        )
        return Check(error <= 1e-6, fraction(error, 1e-6), f"error {error}")


def doubling(time: FakeTime, name: str = "one", absent: dict[str, str] | None = None, **seconds: float) -> DoublingCase:
    """A case whose contenders, by name, are right and take so many seconds."""

    def contender(duration: float) -> Callable[[Tensor], Tensor]:
        def function(x: Tensor) -> Tensor:
            time.seconds += duration
            return x * torch.full((10,), 2.0)  # keeps 40 bytes for backward

        return function

    functions = {key: contender(value) for key, value in seconds.items()}
    return DoublingCase("doubling", name, "fp32", "both", "cpu", {"tokens": 10}, functions, absent or {})


def results_of(*cases: Case, time: FakeTime, device: str = "cpu") -> dict[str, Any]:
    """What a run of these cases writes, without touching a file."""
    from benchmarks.run import run_case

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
    head = {"format": 1, "environment": environment, "settings": {}, "seconds": 90.0, "limits": limits}
    return {**head, "cases": records}
