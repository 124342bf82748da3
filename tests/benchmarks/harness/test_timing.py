"""Which provider is timed when, and what of a call counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.harness.case import Inputs, Provider
from benchmarks.harness.execution import Execution, TimedCall
from benchmarks.harness.timing import LONG, DeviceClock, HostClock, time_interleaved

from ..fakes import FakeTime


def calls(time: FakeTime, log: list[str], name: str, seconds: float, sets: int = 1) -> list[TimedCall]:
    """One call for each input set; each takes so long."""

    def call(index: int) -> TimedCall:
        def run(state: Any) -> None:
            time.seconds += seconds
            log.append(f"{name}{index}")

        return TimedCall(lambda: None, run)

    return [call(index) for index in range(sets)]


def test_long_calls_are_timed_in_the_order_a_b_b_a_a_b_b_a() -> None:
    time, log = FakeTime(), []
    both = {name: calls(time, log, name, 2 * LONG) for name in "ab"}
    active = []

    @contextmanager
    def activate(name: str) -> Iterator[None]:
        active.append(name)
        yield

    timings = time_interleaved(both, activate, HostClock(time.now), budget=1)
    assert log == [f"{name}0" for name in "abbaabba"]
    assert active == list("abbaabba")
    assert [timings[name].median for name in "ab"] == pytest.approx([2 * LONG, 2 * LONG])
    assert timings["a"].samples == 4


def test_the_two_halves_of_a_long_call_make_its_spread() -> None:
    time = FakeTime()
    durations = iter([1.0, 1.4, 2.0, 2.2])

    @contextmanager
    def activate(name: str) -> Iterator[None]:
        yield

    def run(state: Any) -> None:
        time.seconds += next(durations)

    timing = time_interleaved({"a": [TimedCall(lambda: None, run)]}, activate, HostClock(time.now), budget=1)["a"]
    assert timing.median == pytest.approx(1.7)
    assert timing.spread == pytest.approx((2.1 - 1.2) / 1.7)


def test_a_short_call_beside_a_long_one_is_timed_as_often_as_alone_and_never_cold() -> None:
    time, active = FakeTime(), []
    cold = iter([LONG / 2] * 2)

    @contextmanager
    def activate(name: str) -> Iterator[None]:
        active.append(name)
        yield

    def run(state: Any) -> None:
        time.seconds += next(cold, 0.001)

    both = {"a": calls(time, [], "a", 2 * LONG), "b": [TimedCall(lambda: None, run)]}
    timings = time_interleaved(both, activate, HostClock(time.now), budget=0.04)
    assert (timings["a"].samples, timings["b"].samples) == (4, 4 * 10)
    assert timings["b"].p80 == pytest.approx(0.001)
    assert timings["b"].noise == pytest.approx(0, abs=1e-6)
    assert "".join(active[-6:]) == "baabba"


def test_short_calls_go_through_the_input_sets_and_the_first_of_a_block_does_not_count() -> None:
    time, log = FakeTime(), []

    @contextmanager
    def activate(name: str) -> Iterator[None]:
        yield

    own = calls(time, log, "a", 0.001, sets=3)
    timing = time_interleaved({"a": own}, activate, HostClock(time.now), budget=0.04)["a"]
    assert timing.samples == 4 * 10
    assert len(log) == 1 + 2 + 4 * 11
    assert log[:7] == ["a0", "a1", "a2", "a0", "a1", "a2", "a0"]


def test_short_calls_are_timed_in_the_order_a_b_b_a_a_b_b_a() -> None:
    time, active = FakeTime(), []

    @contextmanager
    def activate(name: str) -> Iterator[None]:
        active.append(name)
        yield

    both = {name: calls(time, [], name, 0.01) for name in "ab"}
    timings = time_interleaved(both, activate, HostClock(time.now), budget=0.01)
    assert "".join(active[-8:]) == "abbaabba"
    assert timings["a"].samples == 4 * 3


def test_the_clock_leaves_out_preparation() -> None:
    time = FakeTime()

    def prepare() -> str:
        time.seconds += 100
        return "state"

    def run(state: str) -> None:
        assert state == "state"
        time.seconds += 1

    assert HostClock(time.now).block([TimedCall(prepare, run)] * 2) == [1, 1]


def test_the_pass_backward_prepares_with_the_forward_pass_and_times_the_gradients() -> None:
    x = torch.randn(3, requires_grad=True)
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append("forward")
        return x * x

    call = Execution(Provider("some", function), "backward").call(Inputs({"x": x}, [x], [torch.ones(3)]))
    state = call.prepare()
    assert seen == ["forward"]
    (gradient,) = call.run(state)
    assert seen == ["forward"]
    torch.testing.assert_close(gradient, 2 * x.detach())


def test_the_pass_forward_records_no_gradient() -> None:
    x = torch.randn(3, requires_grad=True)
    call = Execution(Provider("some", torch.square), "forward").call(Inputs({"input": x}, [x], None))
    assert not call.run(call.prepare())[0].requires_grad


class FakeEvent:
    """An event of a stream whose work is done in order."""

    time = FakeTime()

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = self.time.now()

    def elapsed_time(self, other: "FakeEvent") -> float:
        return 1e3 * (other.at - self.at)


def test_the_device_clock_waits_once_a_block_and_returns_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(FakeEvent.time.now()))
    log: list[str] = []
    start = FakeEvent.time.now()
    seconds = DeviceClock().block(calls(FakeEvent.time, log, "a", 0.25, sets=4))
    assert seconds == [0.25] * 4  # exact in binary
    assert waits == [start, start + 1]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A log of replays, of graphs that only note them; what is captured runs."""
    log: list[str] = []

    class FakeGraph:
        def replay(self) -> None:
            log.append("replay")

    @contextmanager
    def nothing(*_: Any) -> Iterator[None]:
        yield

    class FakeStream:
        def wait_stream(self, other: Any) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    for name in ("graph", "stream"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, FakeStream)
    return log


def test_a_graph_is_captured_once_and_replayed(captured: list[str]) -> None:
    def function(x: Tensor) -> Tensor:
        captured.append("run")
        return 3 * x

    x = torch.randn(3, requires_grad=True)
    inputs = Inputs({"x": x}, [x], [torch.ones(3)])
    execution = Execution(Provider("some, graph", function, mode="graph"), "both")
    call = execution.call(inputs)
    call.run(call.prepare())
    call.run(call.prepare())
    assert captured == ["run"] * 4 + ["replay"] * 2  # three to warm up, one captured
    output, gradient = execution.evaluate(inputs)
    torch.testing.assert_close(output, 3 * x.detach())
    torch.testing.assert_close(gradient, torch.full((3,), 3.0))


def test_what_is_judged_is_computed_without_tf32_which_the_clock_leaves_to_torch() -> None:
    modes = []

    def function(x: Tensor) -> Tensor:
        modes.append(torch.backends.cudnn.allow_tf32)
        return 3 * x

    inputs = Inputs({"x": torch.randn(3)}, [], None)
    execution = Execution(Provider("some", function), "forward")
    execution.evaluate(inputs)
    call = execution.call(inputs)
    call.run(call.prepare())
    assert modes == [False, True]


def test_what_is_compiled_and_captured_is_the_compiled_function(
    captured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile(function: Any, dynamic: bool, mode: str | None) -> Any:
        def compiled(**arguments: Tensor) -> Tensor:
            captured.append("compiled")
            return function(**arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    inputs = Inputs({"input": torch.ones(3)}, [], None)
    execution = Execution(Provider("some", torch.square, mode="compiled, graph"), "forward")
    call = execution.call(inputs)
    call.run(call.prepare())
    assert captured == ["compiled"] * 4 + ["replay"]
