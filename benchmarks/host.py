"""Time that eager calls of operators take on the host: `python -m benchmarks host`.

Operators run as on a GPU, on small tensors in the memory of the CPU; launches of Triton kernels are recorded, so that
nothing of them is computed, and what Triton's launcher takes is left out. Torch operators inside the bodies do run.
"""

from collections.abc import Callable, Iterator
from time import process_time
from timeit import repeat
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from seqca.kernels.launch import record
from torch import Generator

from seqca.ops.shared.operator import OPERATORS, Operator
from seqca.ops.shared.sample import Sample
from seqca.ops.verification.judge import inputs_of, leaves, rounded

from .harness.launches import choices_of_a_gpu
from .report.tables import markdown

ENTRIES = 12
"""Of the list of `linear_attention`: the pairs of four tasks."""
CALLS, TURNS = 50, 7


class HostTime(NamedTuple):
    """Microseconds of processor time of a call, the least of TURNS turns."""

    forward: float
    both: float
    """Forward with a graph, and the gradients of all arguments."""
    forward_body: float
    """Of these, what the implementation takes."""
    backward_body: float


def pairs() -> Sample:
    """The arguments of `linear_attention` for the pairs of four tasks at one scale."""
    q, k, v = ([torch.randn(8, 300, 36) for _ in range(ENTRIES)] for _ in range(3))
    return Sample({"q": q, "k": k, "v": v}, ("q", "k", "v"))


def samples() -> Iterator[tuple[str, Operator, Sample]]:
    """A call of every operator with Triton kernels."""
    yield f"linear_attention, {ENTRIES} entries", OPERATORS["linear_attention"], pairs()
    for name, operator in OPERATORS.items():
        if "triton" in operator.backends:
            sample, draw = next(iter(operator.samples.items()))
            yield f"{name}, {sample}", operator, draw(256, 36, Generator().manual_seed(0))


def host_time(operator: Operator, sample: Sample) -> HostTime:
    """That of one call."""
    sample = rounded(sample, torch.float32, "cpu")
    inputs = inputs_of(sample)
    implementation = operator.implementation("triton")
    bodies: dict[str, tuple[Any, ...]] = {}

    def noting(name: str) -> Callable[..., Any]:
        body = getattr(implementation, name)

        def noted(*arguments: Any) -> Any:
            bodies[name] = arguments
            return body(*arguments)

        return noted

    def forward() -> list[torch.Tensor]:
        return [x for x in leaves(operator.function(**sample.arguments)) if x.requires_grad]

    def both() -> None:
        torch.autograd.grad(outputs := forward(), inputs, [gradients[x.shape] for x in outputs], allow_unused=True)

    with choices_of_a_gpu(), record() as launches:
        with patch.multiple(implementation, forward=noting("forward"), backward=noting("backward")):
            gradients = {x.shape: torch.ones_like(x) for x in forward()}
            both()
        with torch.no_grad():
            alone = time_of(lambda: operator.function(**sample.arguments), launches)
            own = [time_of(lambda name=name: getattr(implementation, name)(*bodies[name]), launches) for name in bodies]
        return HostTime(alone, time_of(both, launches), *own)


def time_of(call: Callable[[], Any], launches: list[Any]) -> float:
    """Microseconds of a call."""

    def forgetting() -> None:
        call()
        launches.clear()

    return 1e6 / CALLS * min(repeat(forgetting, number=CALLS, repeat=TURNS, timer=process_time))


def table() -> str:
    """All of them."""
    torch.set_num_threads(1)
    rows = [[name, *(f"{x:.0f}" for x in host_time(operator, sample))] for name, operator, sample in samples()]
    return markdown(["µs", "forward", "forward and backward", "of it forward body", "backward body"], rows)
