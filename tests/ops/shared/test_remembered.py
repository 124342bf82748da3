"""Work that depends on the kinds of tensors alone is done once for calls alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from seqca.ops.shared import remembered as remembering
from seqca.ops.shared.remembered import remembered


def counting() -> tuple[Callable[..., Any], list[Any]]:
    """A function that is remembered, and the arguments with which it was really called."""
    calls: list[Any] = []

    @remembered
    def work(*arguments: Any) -> int:
        calls.append(arguments)
        if arguments == ():
            raise ValueError("got nothing")
        return len(calls)

    return work, calls


def test_calls_alike_are_worked_out_once_whatever_the_values_and_strides() -> None:
    work, calls = counting()
    x = torch.zeros(2, 3)
    assert work([x, x], 1.0, "a") == work([torch.ones(2, 3), torch.zeros(3, 2).T], 1.0, "a") == 1
    assert len(calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        ([torch.zeros(2, 4)], 1),
        ([torch.zeros(2, 3).half()], 1),
        ([torch.zeros(2, 3, device="meta")], 1),
        ([torch.zeros(2, 3).to_sparse()], 1),
        ([torch.zeros(2, 3)] * 2, 1),
        ([torch.zeros(2, 3)], 2),
        ([torch.zeros(2, 3)], True),
        ([torch.zeros(2, 3)], None),
        ([[torch.zeros(2, 3)]], 1),
    ],
)
def test_what_differs_is_worked_out_anew(other: tuple[Any, ...]) -> None:
    work, calls = counting()
    work([torch.zeros(2, 3)], 1)
    work(*other)
    assert len(calls) == 2


def test_an_error_is_raised_each_time() -> None:
    work, calls = counting()
    for _ in range(2):
        with pytest.raises(ValueError, match="got nothing"):
            work()
    assert len(calls) == 2


def test_what_has_no_hash_is_worked_out_each_time() -> None:
    work, calls = counting()
    work({})
    work({})
    assert len(calls) == 2


def test_sizes_that_are_symbols_are_worked_out_each_time() -> None:
    work, calls = counting()

    def function(x: Tensor) -> Tensor:
        work(x)
        work(x)
        return x + 1

    make_fx(function, tracing_mode="symbolic")(torch.zeros(5, 3))
    assert len(calls) == 2


def test_no_more_results_are_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "_KEPT", 2)
    work, calls = counting()
    for number in (1, 2, 2, 1, 3):
        work(number)
    assert len(calls) == 3
    work(1)
    assert len(calls) == 4
