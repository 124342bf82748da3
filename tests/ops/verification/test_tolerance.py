"""The statistics of the tolerance rule: what draws of the reference's error allow."""

import math

import pytest
import torch
from torch import Generator

from seqca.ops.verification.tolerance import (
    DEVIATIONS,
    FEW,
    MANY,
    Errors,
    Verdict,
    agree,
    allowed,
    errors,
    root_mean_square,
    student_quantile,
)


@pytest.mark.parametrize(
    ("probability", "draws", "expected"),
    [(0.05, 2, 4.303), (0.05, 10, 2.228), (0.01, 8, 3.355), (0.001, 16, 4.015), (0.001, 30, 3.646), (0.01, 60, 2.660)],
)
def test_student_quantiles_are_those_of_the_tables(probability: float, draws: int, expected: float) -> None:
    assert student_quantile(probability, draws) == pytest.approx(expected, abs=6e-4)


def test_student_quantiles_of_two_draws_have_a_closed_form_far_out() -> None:
    # P(|t| > x) = 1 − x/√(x² + 2) for two degrees of freedom.
    p = 1e-6
    assert student_quantile(p, 2) == pytest.approx(math.sqrt(2) * (1 - p) / math.sqrt(p * (2 - p)), rel=1e-6)


def test_student_quantiles_need_an_even_number_of_draws() -> None:
    with pytest.raises(ValueError, match="draws: got 15, expected an even number"):
        student_quantile(0.05, 15)


def largest_of(numbers: int, sets: int, draws: int) -> torch.Tensor:
    """The largest of so many standard normal errors, without drawing them all: by its distribution function."""
    uniform = torch.rand(sets, draws, generator=Generator().manual_seed(0), dtype=torch.float64)
    return math.sqrt(2) * torch.erfinv(uniform ** (1 / numbers))


@pytest.mark.parametrize("draws", DEVIATIONS)
@pytest.mark.parametrize("numbers", [1, 2, 18, 72, 1000, 100000])
def test_the_next_draw_of_normal_errors_is_no_false_alarm(numbers: int, draws: int) -> None:
    probabilities = []
    for norms in largest_of(numbers, 4000, draws).tolist():
        beyond = math.erfc(allowed(norms) / math.sqrt(2))
        probabilities.append(-math.expm1(numbers * math.log1p(-beyond)))
    assert sum(probabilities) / len(probabilities) < 1e-6


@pytest.mark.parametrize(("numbers", "most"), [(1, 6.5), (2, 6.5), (18, 4), (72, 3.2), (1000, 2.5), (100000, 2)])
def test_little_more_is_allowed_than_that_takes(numbers: int, most: float) -> None:
    """In multiples of the typical error, 95 times of 100; 8 must be seen."""
    ratios = torch.tensor(
        [allowed(norms) / root_mean_square(norms) for norms in largest_of(numbers, 500, MANY).tolist()]
    )
    assert ratios.quantile(0.95) <= most


@pytest.mark.parametrize(("numbers", "sufficient"), [(1, False), (4, False), (10000, True)])
def test_few_draws_suffice_where_many_numbers_share_in_the_norm(numbers: int, sufficient: bool) -> None:
    for norms in largest_of(numbers, 100, FEW).tolist():
        assert agree(norms) == sufficient


def test_twice_the_typical_error_is_allowed_where_all_draws_are_alike() -> None:
    assert allowed([0.5] * FEW) == 1
    assert allowed([0.0] * FEW) == 0


def test_an_error_that_the_reference_made_is_allowed() -> None:
    rare = [1.0] * (MANY - 1) + [100.0]  # say, an element that fell on the other side of a clamp
    assert allowed(rare) >= 100


def test_a_reference_that_overflows_is_no_yardstick() -> None:
    with pytest.raises(ValueError, match="draws: got an error of the reference that is not finite"):
        allowed([1.0] * (FEW - 1) + [math.nan])


def test_numbers_of_draws_without_a_quantile_are_refused() -> None:
    with pytest.raises(ValueError, match="draws: got 5 of them, expected a number among"):
        allowed([1.0] * 5)


def test_the_channel_axis_is_the_one_given() -> None:
    exact = torch.zeros(2, 3, 5, 5)
    actual = exact.clone()
    actual[:, 1] = 0.5
    assert errors(actual, exact, 1).channel == 0.5
    assert errors(actual, exact, -1).channel == pytest.approx(0.5 / 3)
    assert errors(torch.tensor(2.0), torch.tensor(1.0)) == (1.0, 1.0)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"actual: got shape \(2, 1\), expected \(1, 2\)"):
        errors(torch.zeros(2, 1), torch.zeros(1, 2))


def test_a_verdict_tells_both_errors_and_nan_is_never_right() -> None:
    verdict = Verdict("output", Errors(1.0, math.nan), Errors(2.0, 3.0))
    assert not verdict.ok
    assert str(verdict) == ("output: largest error 1 (allowed 2), worst channel's mean error nan (allowed 3)")
    assert Verdict("output", Errors(1.0, 3.0), Errors(2.0, 3.0)).ok
