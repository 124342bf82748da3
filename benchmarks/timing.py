"""Times contenders side by side."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain, cycle, islice

from .clock import Clock
from .execution import Call
from .noise import Timing, summarise

LONG = 0.3
"""Seconds from which on a call is too long to be repeated many times."""

Activate = Callable[[str], AbstractContextManager[None]]
"""Makes a contender, given by name, the one that runs."""


def time_interleaved(
    calls: Mapping[str, Sequence[Call]], activate: Activate, clock: Clock, budget: float
) -> dict[str, Timing]:
    """Times contenders in turn, A B C C B A A B C C B A, so that whatever drifts hits all alike.

    The first half of a contender's blocks and the second are its two measurements. Each block starts with a
    call that does not count. If a call is long (over `LONG` seconds), all are timed in one round A B C C B A.

    Args:
        calls: by contender, one call per input set; what they call has run before. They are gone through again and
            again in order, so that a call finds none of its inputs in the cache if all sets together exceed it.
        activate: entered around each block.
        clock: what times.
        budget: seconds per contender, spent where calls are short enough.
    """
    endless = {name: cycle(own) for name, own in calls.items()}

    def block(name: str, count: int) -> list[float]:
        with activate(name):
            return clock.block(list(islice(endless[name], count)))

    if not calls:
        return {}
    samples = {name: [block(name, 1)] for name in calls}
    estimates = {name: first[0][0] for name, first in samples.items()}
    names = list(calls)
    if max(estimates.values()) >= LONG:
        turns = [names[::-1]]  # the first turn was the estimate
    else:
        turns = [names, names[::-1]] * 2
        estimates = {name: block(name, 2)[1] for name in calls}
        samples = {name: [] for name in calls}
    for turn in turns:
        for name in turn:
            if estimates[name] < LONG:
                count = max(3, min(100, round(budget / len(turns) / max(estimates[name], 1e-6))))
                samples[name].append(block(name, count + 1)[1:])
            else:
                samples[name].append(block(name, 1))
    half = max(1, len(turns) // 2)
    return {
        name: summarise(list(chain(*blocks[:half])), list(chain(*blocks[half:]))) for name, blocks in samples.items()
    }
