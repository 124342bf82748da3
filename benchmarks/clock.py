"""Clocks: what one call takes, in seconds."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .execution import Call


class Clock(Protocol):
    """Times calls one after the other."""

    def block(self, calls: Sequence[Call]) -> list[float]:
        """Seconds of each call's `run`."""
        ...


class HostClock:
    """The processor's clock, for work that is done when the call returns.

    Args:
        now: seconds, from any origin.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now

    def block(self, calls: Sequence[Call]) -> list[float]:
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

    def block(self, calls: Sequence[Call]) -> list[float]:
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
