"""CUDA graphs as a CPU can have them: a capture notes operator by operator, and a replay computes them again."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode  # documented, and has no other name

from seqca.ops.verification.judge import leaves


class Graph(TorchDispatchMode):
    """What operators computed while this was entered, each on the memory that it read and into that which it made.

    As on a GPU, nothing but the memory connects one replay with the next, and random numbers go on where torch's
    generator is. Unlike there, what is captured is computed meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default, "a capture does not wait for a number"
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for function, args, kwargs, result in self.calls:
                for old, new in zip(leaves(result), leaves(function(*args, **kwargs)), strict=True):
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():  # else it is a view
                        old.copy_(new)


def pretend(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Lets a CPU capture graphs; the list has them."""
    made: list[Graph] = []

    def make() -> Graph:
        made.append(Graph())
        return made[-1]

    stream, fork = SimpleNamespace(wait_stream=lambda other: None), torch.random.fork_rng
    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, capture_error_mode: graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: fork([]))
    return made
