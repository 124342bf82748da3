"""Clocks, and the timing of providers side by side."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain, cycle, islice
from typing import Protocol

import torch
from torch import Tensor

from .execution import TimedCall, capture
from .noise import Timing, summarise

LONG = 0.3
"""Seconds from which on a call is too long to be repeated many times."""

Activate = Callable[[str], AbstractContextManager[None]]
"""Makes a provider, given by name, the one that runs."""


class Clock(Protocol):
    """Times calls one after the other."""

    def block(self, calls: Sequence[TimedCall]) -> list[float]:
        """Seconds of each call's `run`."""
        ...


class HostClock:
    """The processor's clock, for work that is done when the call returns.

    Args:
        now: seconds, from any origin.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now

    def block(self, calls: Sequence[TimedCall]) -> list[float]:
        """Seconds of each call's `run`."""
        seconds = []
        for call in calls:
            state = call.prepare()
            start = self._now()
            result = call.run(state)
            seconds.append(self._now() - start)
            del result, state  # freeing memory is no part of the call
        return seconds


class DeviceClock:
    """Events on the GPU's current stream.

    The calls of a block are queued without waiting in between, so a call that keeps the GPU busy for longer
    than the host needs to launch it is measured without its launches, and a shorter one with them: as in use.
    """

    def block(self, calls: Sequence[TimedCall]) -> list[float]:
        """Seconds of each call's `run`."""
        events = []
        torch.cuda.synchronize()
        for call in calls:
            state = call.prepare()
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call.run(state)
            stop.record()
            events.append((start, stop))
        torch.cuda.synchronize()
        return [start.elapsed_time(stop) / 1e3 for start, stop in events]


def clock_for(device: str) -> Clock:
    """The clock of a device type."""
    return DeviceClock() if device == "cuda" else HostClock()


def replayed(work: Callable[[], list[Tensor]], times: int, device: str) -> float:
    """Seconds of work that is captured as a CUDA graph, so that no launch counts; on a CPU it is done once, and 0."""
    if device == "cpu":
        work()
        return 0.0
    graph, _results = capture(work)
    return median_replay(graph, times)


def median_replay(graph: torch.cuda.CUDAGraph, times: int) -> float:
    """Seconds of a replay of a CUDA graph, the median of so many."""
    call = TimedCall(lambda: None, lambda _: graph.replay())
    return statistics.median(DeviceClock().block([call] * times))


def time_interleaved(
    calls: Mapping[str, Sequence[TimedCall]], activate: Activate, clock: Clock, budget: float
) -> dict[str, Timing]:
    """Times providers in turn, A B C C B A A B C C B A, so that whatever drifts hits all alike.

    The first half of a provider's blocks and the second are its two measurements. Each block starts with a
    call that does not count; but a long call (`LONG` seconds or more) is a block by itself.

    Args:
        calls: by provider, one call per input set; what they call has run before. They are gone through again and
            again in order, so that a call finds none of its inputs in the cache if all sets together exceed it.
        activate: entered around each block.
        clock: what times.
        budget: seconds per provider, spent where calls are short enough.
    """
    endless = {name: cycle(own) for name, own in calls.items()}

    def block(name: str, count: int) -> list[float]:
        with activate(name):
            return clock.block(list(islice(endless[name], count)))

    names = list(calls)
    first = {name: block(name, 1) for name in names}
    long = {name for name in names if first[name][0] >= LONG}
    estimates = {name: block(name, 2)[1] for name in names if name not in long}
    # A long call is too dear to be an estimate alone: it is the provider's block of the first turn.
    samples = {name: [first[name]] if name in long else [] for name in names}
    turns = [names, names[::-1]] * 2
    for i, turn in enumerate(turns):
        for name in turn:
            if name not in long:
                count = max(3, min(100, round(budget / len(turns) / max(estimates[name], 1e-6))))
                samples[name].append(block(name, count + 1)[1:])
            elif i > 0:
                samples[name].append(block(name, 1))
    return {name: summarise([*chain(*blocks[:2])], [*chain(*blocks[2:])]) for name, blocks in samples.items()}
