"""Medians, percentiles, and what counts as noise."""

from collections.abc import Mapping, Sequence
from math import comb
from typing import NamedTuple

import numpy as np

FLOOR = 0.01
"""The fraction below which a difference counts as noise whatever was measured."""


class Timing(NamedTuple):
    """The times of one provider, in seconds."""

    median: float
    p20: float
    p80: float
    samples: int
    spread: float
    """The provider timed twice: the difference of the two medians, as a fraction of the median."""
    noise: float
    """The fraction below which a difference says nothing: the larger of the spread and of half the width of the
    95 % confidence interval of the median."""


def summarise(first: Sequence[float], second: Sequence[float]) -> Timing:
    """The summary of a provider that was timed twice."""
    samples = sorted([*first, *second])
    median = float(np.median(samples))
    spread = abs(float(np.median(first)) - float(np.median(second))) / median
    low, high = confidence_interval(samples)
    p20, p80 = np.quantile(samples, (0.2, 0.8)).tolist()
    return Timing(median, p20, p80, len(samples), spread, max(spread, (high - low) / 2 / median))


def confidence_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the median, free of assumptions about the distribution.

    The i-th smallest of n samples and the i-th largest enclose the median with probability
    1 − 2 P(Binomial(n, 1/2) < i). With fewer than 6 samples no such pair exists; then it is all of them.
    """
    n = len(ordered)
    outside, i = 0.0, 0
    while i < n // 2 and outside + comb(n, i) / 2**n <= 0.025:
        outside += comb(n, i) / 2**n
        i += 1
    i = max(i, 1)
    return ordered[i - 1], ordered[n - i]


def differs(one: Mapping[str, float], other: Mapping[str, float], floor: float = FLOOR) -> bool:
    """Whether two times (fields of `Timing`) differ by more than their noise, and by more than a floor.

    The floor stands for what no repetition within a run can show, such as where memory happens to lie.
    """
    noise = max(one["noise"], other["noise"], floor)
    return abs(one["median"] - other["median"]) > noise * min(one["median"], other["median"])
