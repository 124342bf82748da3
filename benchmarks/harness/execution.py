"""Runs a provider on inputs, in its mode."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqca.ops.verification.judge import leaves

from .case import Inputs, Provider


class TimedCall(NamedTuple):
    """One call to be timed: `run(prepare())`, of which only `run` counts."""

    prepare: Callable[[], Any]
    run: Callable[[Any], Any]


class Execution:
    """A provider in its mode, compiled or captured when it first runs.

    The caller forces the provider's backend around it.
    """

    def __init__(self, provider: Provider, direction: str) -> None:
        self._provider, self._direction = provider, direction
        self._function = provider.function
        if provider.compiled:
            # No dynamic shapes: every case has one shape, and a user's training has one too.
            self._function = torch.compile(provider.function, dynamic=False)

    def evaluate(self, inputs: Inputs) -> list[Tensor]:
        """Outputs and, unless the pass is forward, gradients, in the order of the reference's."""
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
