"""Medians, percentiles and noise."""

from math import comb

import pytest

from benchmarks.harness.noise import confidence_interval, differs, summarise


def test_summary_holds_median_percentiles_and_the_difference_of_the_two_measurements() -> None:
    timing = summarise([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert timing.median == 4.0
    assert timing.samples == 11
    assert (timing.p20, timing.p80) == (2.0, 5.0)
    assert timing.spread == pytest.approx((4.5 - 3.0) / 4.0)
    assert timing.noise >= timing.spread


@pytest.mark.parametrize(("n", "ranks"), [(2, (1, 2)), (5, (1, 5)), (6, (1, 6)), (20, (6, 15)), (100, (40, 61))])
def test_confidence_interval_has_the_ranks_of_the_tables(n: int, ranks: tuple[int, int]) -> None:
    assert confidence_interval(range(1, n + 1)) == ranks
    outside = 2 * sum(comb(n, i) for i in range(ranks[0])) / 2**n
    assert outside <= 0.05 or n < 6


def test_two_equal_measurements_that_scatter_widely_are_still_noisy() -> None:
    assert summarise([1.0, 3.0], [1.0, 3.0]).spread == 0
    assert summarise([1.0, 3.0], [1.0, 3.0]).noise == 0.5


@pytest.mark.parametrize(
    ("one", "other", "noise", "expected"),
    [(1.0, 1.05, 0.06, False), (1.0, 1.05, 0.04, True), (1.05, 1.0, 0.04, True), (1.0, 1.009, 0.0, False)],
)
def test_differences_count_only_beyond_the_noise_and_the_floor(
    one: float, other: float, noise: float, expected: bool
) -> None:
    quiet = {"median": one, "noise": 0.0}
    assert differs(quiet, {"median": other, "noise": noise}) is expected
    assert differs({"median": other, "noise": noise}, quiet) is expected
