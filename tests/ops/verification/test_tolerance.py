"""The rule that judges all operators, judged itself: faults that it must see, and what it must let pass."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqca.ops.verification.tolerance import Verdict, allowed, errors

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def product(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A matrix product computed in a dtype, and the exact one of the same rounded factors."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(512, 36, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(36, 36, generator=generator, dtype=torch.float64).to(dtype)
    return tokens @ weight, tokens.double() @ weight.double()


def judged(result: Tensor, rough: Tensor, exact: Tensor) -> Verdict:
    return Verdict("output", errors(result, exact), allowed(rough, exact, result.dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_reference_and_the_exact_result_rounded_once_pass(dtype: torch.dtype) -> None:
    rough, exact = product(dtype)
    assert judged(rough, rough, exact).ok
    assert judged(exact.to(dtype), rough, exact).ok


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_reference_without_error_still_allows_one_rounding(dtype: torch.dtype) -> None:
    _, exact = product(dtype)
    assert judged(exact.to(dtype), exact.to(dtype), exact).ok


def _zero(result: Tensor, rough: Tensor) -> Tensor:
    return torch.zeros_like(result)


def _one_wrong_element(result: Tensor, rough: Tensor) -> Tensor:
    result[300, 7] += 4 * (rough - result).abs().max() + 8 * torch.finfo(result.dtype).eps * result.abs().max()
    return result


def _one_nan(result: Tensor, rough: Tensor) -> Tensor:
    result[300, 7] = math.nan
    return result


def _last_token_forgotten(result: Tensor, rough: Tensor) -> Tensor:
    result[-1] = 0
    return result


def _transposed_channels(result: Tensor, rough: Tensor) -> Tensor:
    result[:, [0, 1]] = result[:, [1, 0]]
    return result


FAULTS = [_zero, _one_wrong_element, _one_nan, _last_token_forgotten, _transposed_channels]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_planted_fault_is_seen(dtype: torch.dtype, fault: Callable[[Tensor, Tensor], Tensor]) -> None:
    rough, exact = product(dtype)
    assert not judged(fault(rough.clone(), rough), rough, exact).ok


def test_a_bias_of_one_channel_below_the_largest_error_is_seen() -> None:
    rough, exact = product(torch.bfloat16)
    biased = exact.clone()
    biased[:, 3] += errors(rough, exact).largest / 3
    verdict = judged(biased.to(torch.bfloat16), rough, exact)
    assert verdict.found.largest <= verdict.bound.largest
    assert verdict.found.channel > verdict.bound.channel
    assert not verdict.ok


def test_tf32_products_do_not_pass_as_float32() -> None:
    rough, exact = product(torch.float32)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(512, 36, generator=generator, dtype=torch.float64).float()
    mantissa = tokens.view(torch.int32).bitwise_and(-(2**13)).view(torch.float32)
    weight = torch.randn(36, 36, generator=generator, dtype=torch.float64).float()
    assert not judged(mantissa @ weight, rough, exact).ok


def test_float64_is_judged_by_the_float32_reference_scaled() -> None:
    rough, exact = product(torch.float32)
    assert judged(exact, rough, exact).ok
    assert not judged(exact + 1e-12, rough, exact).ok


def test_an_absolute_tolerance_would_pass_zero_for_small_values_and_this_does_not() -> None:
    rough, exact = product(torch.float32)
    assert not judged(torch.zeros_like(rough), rough * 2.0**-40, exact * 2.0**-40).ok


def test_the_channel_axis_is_the_one_given() -> None:
    exact = torch.zeros(2, 3, 5, 5)
    actual = exact.clone()
    actual[:, 1] = 0.5
    assert errors(actual, exact, 1).channel == 0.5
    assert errors(actual, exact, -1).channel == pytest.approx(0.5 / 3)
    assert errors(torch.tensor(2.0), torch.tensor(1.0)) == (1.0, 1.0)


def test_a_reference_that_overflows_is_no_yardstick() -> None:
    exact = torch.tensor([[1e6]])
    with pytest.raises(ValueError, match="not finite"):
        allowed(exact.half(), exact, torch.float16)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"actual: got shape \(2, 1\), expected \(1, 2\)"):
        errors(torch.zeros(2, 1), torch.zeros(1, 2))


def test_one_number_alone_is_allowed_half_an_ulp() -> None:
    exact = torch.tensor(1.0, dtype=torch.float64)  # needs no rounding, so none can be measured
    bound = allowed(exact.float(), exact, torch.float32)
    assert bound == (2.0**-24, 2.0**-24)


def test_float64_is_allowed_three_times_the_errors_of_the_reference_and_two_roundings() -> None:
    rough, exact = product(torch.float32)
    ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    of_reference, of_rounding = errors(rough, exact), errors(exact.float(), exact)
    expected = [ratio * (3 * a + 2 * b) for a, b in zip(of_reference, of_rounding, strict=True)]
    assert allowed(rough, exact, torch.float64) == pytest.approx(expected)
