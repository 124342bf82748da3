"""The statistics of the tolerance rule: what draws of the reference's error allow."""

import math

import pytest
import torch
from torch import Generator, Tensor

from seqca.ops.verification import tolerance
from seqca.ops.verification.tolerance import (
    DRAWS,
    Errors,
    Verdict,
    errors,
    multiple_allowed,
    student_quantile,
    typical_error,
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


def largest_of(numbers: int, size: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draws of the largest of so many normal errors of a size, by its distribution function."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return size * math.sqrt(2) * torch.erfinv(uniform ** (1 / numbers))


def below(numbers: int, size: float, bound: Tensor) -> Tensor:
    """The probability that the largest of so many normal errors of a size stays below a bound."""
    return torch.erf(bound / (math.sqrt(2) * size)) ** numbers


@pytest.mark.parametrize("draws", [12, DRAWS])
@pytest.mark.parametrize(
    ("numbers", "size"), [(1, 1.0), (17, 1.0), (99999, 1.0), (5, 0.5), (100, 0.3), (100, 0.4), (9999, 0.25)]
)
def test_the_next_draw_of_one_error_among_others_of_any_size_is_no_false_alarm(
    numbers: int, size: float, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability = 1e-4  # one that some thousands of draws can tell
    monkeypatch.setattr(tolerance, "FALSE_ALARMS", probability)
    shape, generator = (40_000, draws), Generator().manual_seed(0)
    norms = torch.maximum(largest_of(1, 1.0, shape, generator), largest_of(numbers, size, shape, generator))
    bound = multiple_allowed(draws) * norms.square().mean(1).sqrt()
    assert (1 - below(1, 1.0, bound) * below(numbers, size, bound)).mean() < probability


def test_the_next_draw_of_one_number_is_an_alarm_as_often_as_is_designed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance, "FALSE_ALARMS", 1e-4)
    norms = largest_of(1, 1.0, (40_000, DRAWS), Generator().manual_seed(0))
    bound = multiple_allowed(DRAWS) * norms.square().mean(1).sqrt()
    assert (1 - below(1, 1.0, bound)).mean() == pytest.approx(1e-4, rel=0.1)


def test_eight_typical_errors_are_seen_even_where_the_kernel_errs_by_one_the_other_way() -> None:
    assert multiple_allowed(DRAWS) < 7


@pytest.mark.parametrize("draws", range(2, 37, 2))
def test_what_the_reference_did_in_one_of_the_draws_is_allowed(draws: int) -> None:
    rare = [0.0] * (draws - 1) + [1.0]  # say, an element that fell on the other side of a clamp
    assert multiple_allowed(draws) * typical_error(rare, [0.0] * draws) >= 1


def test_more_draws_than_allow_that_are_refused() -> None:
    with pytest.raises(ValueError, match="draws: got 38, expected at most 36"):
        multiple_allowed(38)


def test_the_typical_error_is_the_root_mean_square_or_that_of_rounding_if_that_is_larger() -> None:
    assert typical_error([3.0, 4.0], [1.0, 1.0]) == pytest.approx(math.sqrt(12.5))
    assert typical_error([3.0, 4.0], [5.0, 5.0]) == 5
    assert typical_error([3e-200, 4e-200], [0.0, 0.0]) == pytest.approx(math.sqrt(12.5) * 1e-200)
    assert typical_error([0.0, 0.0], [0.0, 0.0]) == 0


def test_a_reference_that_overflows_is_no_yardstick() -> None:
    with pytest.raises(ValueError, match="draws: got an error of the reference that is not finite"):
        typical_error([1.0, math.nan], [0.0, 0.0])


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
