"""Counts false alarms: fresh draws of the reference, judged as if a kernel had computed them.

`python -m tests.ops.verification.alarms 100000` prints the table of docs/tolerance.md, from so many draws in all; with
`float64` behind it the one of float64, with names of operators their rows alone.
"""

import sys
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

import torch

from .settings import SETTINGS, Setting, settings

ALLOWANCES = 20
"""The allowances of a setting are drawn anew so often, on other inputs: they are random too."""


class Count(NamedTuple):
    """What was found."""

    draws: int
    comparisons: int
    """Results of draws: outputs and gradients."""
    alarms: int
    highest: float
    """The largest error, as a fraction of what was allowed."""

    def __add__(self, other: "Count") -> "Count":  # type: ignore[override]
        return Count(*(a + b for a, b in zip(self[:3], other[:3], strict=True)), max(self.highest, other.highest))


def count(setting: Setting, draws: int, seed: int = 0) -> Count:
    """Judges fresh draws by one allowance."""
    drawn = setting.drawn()
    _ = drawn.allowance  # by the seed 0, which no draw below has
    draw, found = drawn.draws(seed + 1), []
    for _ in range(draws):
        found += [max(map(_share, verdict.found, verdict.bound)) for verdict in drawn.judged(draw())]
    return Count(draws, len(found), sum(x > 1 for x in found), max(found))


def _share(error: float, allowed: float) -> float:
    return error / allowed if allowed else float(error > 0)


def rows(total: int, of: list[Setting]) -> Iterable[tuple[str, Count]]:
    """A row for each operator and sample, over all dtypes."""
    each = -(-total // (len(of) * ALLOWANCES))
    for (operator, sample), group in groupby(of, key=lambda s: (s.operator, s.sample)):
        sum_of = Count(0, 0, 0, 0.0)
        for setting in group:
            for round_ in range(ALLOWANCES):
                sum_of += count(setting._replace(tokens=setting.tokens + round_), each, round_)
        yield f"`{operator}`, {sample}", sum_of


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    print("| operator, sample | draws | comparisons | alarms | largest error, as a fraction of what is allowed |")
    print("|---|---|---|---|---|")
    total = Count(0, 0, 0, 0.0)
    every = settings(torch.float64) if "float64" in sys.argv else SETTINGS
    for name, row in rows(int(sys.argv[1]), [s for s in every if s.operator in sys.argv] or every):
        print(f"| {name} | {row.draws:,} | {row.comparisons:,} | {row.alarms} | {row.highest:.2f} |", flush=True)
        total += row
    print(f"| all | {total.draws:,} | {total.comparisons:,} | {total.alarms} | {total.highest:.2f} |")


if __name__ == "__main__":
    main()
