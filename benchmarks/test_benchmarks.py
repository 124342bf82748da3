"""The quick set through pytest-benchmark: `pytest benchmarks/`. The same cases and checks as `python -m benchmarks`."""

from itertools import cycle
from typing import Any

import pytest
import torch

from seqca.ops.shared.dispatch import use_backend

from .case import Case, Contender
from .cases import all_cases
from .run import checked, input_sets
from .shapes import plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEED = 0


def parameters() -> list[Any]:
    """Every contender of every case, grouped by case."""
    found = []
    for case in all_cases(plan("quick", DEVICE)):
        group = pytest.mark.benchmark(group=case.name)
        for contender in case.contenders().contenders:
            name = f"{case.name}-{contender.name}".replace(" ", "_")
            found.append(pytest.param(case, contender, id=name, marks=group))
    return found


@pytest.mark.parametrize(("case", "contender"), parameters())
def test_speed(case: Case, contender: Contender, benchmark: Any) -> None:
    """Times a contender that computes what it should."""
    torch.compiler.reset()
    truth = case.truth(contender, torch.Generator(DEVICE).manual_seed(SEED))
    entry, execution = checked(case, contender, truth)
    assert entry["check"]["ok"], entry["check"]["what"]
    with use_backend(contender.backend):
        calls = cycle([execution.call(inputs) for inputs in input_sets(case, SEED)[0]])

        def setup() -> tuple[tuple[Any, Any], dict[str, Any]]:
            call = next(calls)
            return (call, call.prepare()), {}

        def run(call: Any, state: Any) -> None:
            call.run(state)
            if DEVICE == "cuda":
                torch.cuda.synchronize()

        benchmark.pedantic(run, setup=setup, rounds=5, warmup_rounds=1)
