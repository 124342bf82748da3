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
    call that does not count; but a long call (`LONG` seconds or more) is a block by itself.

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

    names = list(calls)
    first = {name: block(name, 1) for name in names}
    long = {name for name in names if first[name][0] >= LONG}
    estimates = {name: block(name, 2)[1] for name in names if name not in long}
    # A long call is too dear to be an estimate alone: it is the contender's block of the first turn.
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
