"""Runs a provider on inputs, in its mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, backends

from seqca.ops.shared.dispatch import use_backend
from seqca.ops.verification.judge import leaves
from seqca.ops.verification.precision import without_tf32

from .case import Inputs, Provider


class TimedCall(NamedTuple):
    """One call to be timed: `run(prepare())`, of which only `run` counts."""

    prepare: Callable[[], Any]
    run: Callable[[Any], Any]


@contextmanager
def conditions_of(provider: Provider) -> Iterator[None]:
    """Its backend forced, and torch's switches as it wants them."""
    with use_backend(provider.backend), tuned() if provider.tuned else nullcontext():
        yield


@contextmanager
def tuned() -> Iterator[None]:
    """cuDNN tries its algorithms and takes the fastest; products of float32 may be in TF32, as its convolutions may."""
    benchmark, precision = backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)


class Execution:
    """A provider in its mode, compiled or captured when it first runs.

    The caller enters `conditions_of` the provider around it.
    """

    def __init__(self, provider: Provider, direction: str) -> None:
        self._provider, self._direction = provider, direction
        self._function = provider.function
        if provider.compiled:
            # No dynamic shapes: every case has one shape, and a user's training has one too.
            mode = "max-autotune" if provider.autotuned else None
            self._function = torch.compile(provider.function, dynamic=False, mode=mode)

    def evaluate(self, inputs: Inputs) -> list[Tensor]:
        """Outputs and, unless the pass is forward, gradients, in the order of the reference's; to be judged, and so
        without TF32, which the clock's calls have where torch allows it."""
        with without_tf32():
            if self._provider.captured:
                graph, results = capture(lambda: self._work(inputs))
                graph.replay()
                return self._provider.arranged([result.clone() for result in results])
            return self._provider.arranged(self._work(inputs))

    def call(self, inputs: Inputs) -> TimedCall:
        """What the clock times."""
        if self._provider.captured:
            graph, results = capture(lambda: self._work(inputs))
            return TimedCall(lambda: results, lambda _: graph.replay())  # the results keep the graph's memory alive
        if self._direction == "backward":
            return TimedCall(lambda: self.forward(inputs), lambda outputs: self._differentiate(outputs, inputs))
        return TimedCall(lambda: None, lambda _: self._work(inputs))

    def forward(self, inputs: Inputs) -> list[Tensor]:
        """Outputs that can be differentiated."""
        return leaves(self._function(**inputs.arguments))

    def _work(self, inputs: Inputs) -> list[Tensor]:
        if self._direction == "forward":
            with torch.no_grad():
                return self.forward(inputs)
        outputs = self.forward(inputs)
        return [*(output.detach() for output in outputs), *self._differentiate(outputs, inputs)]

    def _differentiate(self, outputs: list[Tensor], inputs: Inputs) -> list[Tensor]:
        """Gradients of the leaves; zeros for leaves that the outputs do not depend on. Statistics have no gradients."""
        outputs = [x for x in outputs if x.requires_grad]
        of = inputs.leaves if self._provider.leaves is None else self._provider.leaves
        return list(torch.autograd.grad(outputs, of, inputs.gradients, materialize_grads=True))


def capture(work: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """Captures work as a CUDA graph, after a warm-up on a stream of its own, as capture demands.

    What is compiled when it first runs, forward and backward, is compiled in the warm-up.

    Returns:
        The graph, and the tensors that hold the results after each replay.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    return graph, results
