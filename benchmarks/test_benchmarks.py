"""The quick set through pytest-benchmark: `pytest benchmarks/`. The same cases and checks as `python -m benchmarks`."""

from itertools import cycle
from typing import Any

import pytest
import torch

from .cases import all_cases
from .cases.shapes import case_set
from .harness.case import Case, Provider
from .harness.execution import conditions_of
from .harness.run import checked, input_sets

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEED = 0


def parameters() -> list[Any]:
    """Every provider of every case, grouped by case."""
    found = []
    for case in all_cases(case_set("quick", DEVICE)):
        group = pytest.mark.benchmark(group=case.name)
        for provider in case.providers().available:
            name = f"{case.name}-{provider.name}".replace(" ", "_")
            found.append(pytest.param(case, provider, id=name, marks=group))
    return found


@pytest.mark.parametrize(("case", "provider"), parameters())
def test_speed(case: Case, provider: Provider, benchmark: Any) -> None:
    """Times a provider that computes what it should."""
    torch.compiler.reset()
    expected = case.expected(provider, torch.Generator(DEVICE).manual_seed(SEED))
    entry, execution = checked(case, provider, expected)
    assert entry["check"]["ok"], entry["check"]["what"]
    with conditions_of(provider):
        calls = cycle([execution.call(inputs) for inputs in input_sets(case, SEED)[0]])

        def setup() -> tuple[tuple[Any, Any], dict[str, Any]]:
            call = next(calls)
            return (call, call.prepare()), {}

        def run(call: Any, state: Any) -> None:
            call.run(state)
            if DEVICE == "cuda":
                torch.cuda.synchronize()

        benchmark.pedantic(run, setup=setup, rounds=5, warmup_rounds=1)
