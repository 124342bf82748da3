"""Draws of the reference's error, and what is judged by them."""

import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Generator, Tensor

from seqca.ops.verification.draws import Results, as_drawn, compact, drawn_from, judged, moved, plain_torch
from seqca.ops.verification.tolerance import DRAWS, Verdict, multiple_allowed

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_values_in_half_precision_move_by_one_unit_in_the_last_place_and_zeros_stay(dtype: torch.dtype) -> None:
    x = torch.randn(1000, generator=Generator().manual_seed(0)).to(dtype)
    x[::10] = 0
    near = moved(x, Generator().manual_seed(1))
    infinite = torch.full_like(x, torch.inf)
    above, below = torch.nextafter(x, infinite), torch.nextafter(x, -infinite)
    assert ((near == x) | (near == above) | (near == below)).all()
    assert not near[::10].any()
    for neighbour in (x, above, below):
        assert (near == neighbour)[x != 0].float().mean() > 0.25


def test_values_in_single_precision_move_by_up_to_1024_units_and_zeros_stay() -> None:
    x = 1 + torch.rand(1000, generator=Generator().manual_seed(0))
    x[::10] = 0
    steps = (moved(x, Generator().manual_seed(1)).double() - x) / torch.finfo(x.dtype).eps
    assert not steps[::10].any()
    assert steps.min() >= -1024 and steps.max() <= 1024
    assert steps.quantile(0.1) < -600 and steps.quantile(0.9) > 600


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_smallest_values_stay_or_become_their_neighbours(dtype: torch.dtype) -> None:
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    x = torch.tensor([smallest, -smallest, torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype).repeat(50)
    near = moved(x, Generator().manual_seed(0))
    assert near.isfinite().all()
    assert (near * x.sign() >= 0).all()


@pytest.mark.parametrize("many", [1000, 100_000])
def test_every_draw_of_a_sum_of_many_numbers_rounds_afresh(many: int) -> None:
    x = 1 + torch.rand(many, generator=Generator().manual_seed(0))
    draw = drawn_from(lambda inputs: {"sum": inputs[0].sum()}, [x])
    found = torch.stack([rough["sum"].double() - exact["sum"] for rough, exact in (draw() for _ in range(24))])
    assert found.std() > 0.5 * found.abs().mean()


def test_values_that_share_their_memory_move_together() -> None:
    x = torch.randn(4, 1, 5).expand(4, 3, 5)
    near = moved(compact(x), Generator().manual_seed(0))
    assert near.stride() == (5, 0, 1)
    assert (near != x).any()


def test_the_order_in_memory_is_kept_without_the_gaps() -> None:
    wide = torch.randn(7, 4, 6).permute(2, 0, 1)
    (x,) = as_drawn([wide[:, ::2]])
    assert torch.equal(x, wide[:, ::2])
    assert x.stride() == (1, 24, 6)
    assert moved(x, Generator()).stride() == x.stride()


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_reference_runs_outside_deterministic_mode_and_in_full_precision(deterministic: None) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with plain_torch():
            assert not torch.are_deterministic_algorithms_enabled()
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def product(inputs: Sequence[Tensor]) -> Results:
    """The reference of these tests."""
    tokens, weight = inputs
    return {"output": tokens @ weight}


def factors(dtype: torch.dtype) -> list[Tensor]:
    generator = Generator().manual_seed(0)
    shapes = ((512, 36), (36, 36))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def verdict(result: Tensor, inputs: Sequence[Tensor]) -> Verdict:
    (only,) = judged(product, inputs, {"output": result})
    return only


def exact(inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0].double() @ inputs[1].double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_reference_and_the_exact_result_rounded_once_pass(dtype: torch.dtype) -> None:
    inputs = factors(dtype)
    assert verdict(product(inputs)["output"], inputs).ok
    assert verdict(exact(inputs).to(dtype), inputs).ok


def test_a_sum_in_another_order_passes_though_it_is_a_single_number() -> None:
    """What another processor does."""
    generator = Generator().manual_seed(0)
    for _ in range(20):
        x = torch.randn(1000, generator=generator)
        (only,) = judged(lambda inputs: {"sum": inputs[0].sum()}, [x], {"sum": x[torch.randperm(1000)].sum()})
        assert only.ok, str(only)


def _zero(result: Tensor, error: float) -> Tensor:
    return torch.zeros_like(result)


def _one_wrong_element(result: Tensor, error: float) -> Tensor:
    result[300, 7] += 4 * error + 8 * torch.finfo(result.dtype).eps * result.abs().max()
    return result


def _one_nan(result: Tensor, error: float) -> Tensor:
    result[300, 7] = math.nan
    return result


def _one_token_forgotten(result: Tensor, error: float) -> Tensor:
    result[-1] = 0
    return result


def _exchanged_channels(result: Tensor, error: float) -> Tensor:
    result[:, [0, 1]] = result[:, [1, 0]]
    return result


FAULTS = [_zero, _one_wrong_element, _one_nan, _one_token_forgotten, _exchanged_channels]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_planted_fault_is_seen(dtype: torch.dtype, fault: Callable[[Tensor, float], Tensor]) -> None:
    inputs = factors(dtype)
    right = product(inputs)["output"]
    assert not verdict(fault(right, verdict(right, inputs).found.largest), inputs).ok


def test_a_bias_of_one_channel_below_the_largest_error_is_seen() -> None:
    inputs = factors(torch.bfloat16)
    biased = exact(inputs)
    biased[:, 3] += verdict(product(inputs)["output"], inputs).found.largest / 3
    seen = verdict(biased.to(torch.bfloat16), inputs)
    assert seen.found.largest <= seen.bound.largest
    assert seen.found.channel > seen.bound.channel
    assert not seen.ok


def test_tf32_products_do_not_pass_as_float32() -> None:
    inputs = factors(torch.float32)
    mantissa = inputs[0].view(torch.int32).bitwise_and(-(2**13)).view(torch.float32)
    assert not verdict(mantissa @ inputs[1], inputs).ok


def test_float64_is_judged_by_the_float32_reference_scaled() -> None:
    inputs = [x.double() for x in factors(torch.float32)]
    single = verdict(exact(inputs).float(), factors(torch.float32))
    double = verdict(exact(inputs), inputs)
    assert double.ok
    ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    assert double.bound == pytest.approx([math.sqrt(2) * ratio * single.bound.largest] * 2)
    assert not verdict(exact(inputs) + 1e-12, inputs).ok


def test_an_absolute_tolerance_would_pass_zero_for_small_values_and_this_does_not() -> None:
    tokens, weight = factors(torch.float32)
    small = [tokens * 2.0**-20, weight * 2.0**-20]
    assert not verdict(torch.zeros(512, 36), small).ok


def test_an_exact_zero_needs_no_rounding_and_allows_none() -> None:
    x = torch.randn(20, 6, generator=Generator().manual_seed(0))
    x[3] = 0
    (only,) = judged(lambda inputs: {"double": 2 * inputs[0]}, [x[3:4]], {"double": torch.full((1, 6), 1e-30)})
    assert only.bound == (0, 0)
    assert not only.ok


def test_where_the_reference_is_exact_half_a_unit_is_typical() -> None:
    x = torch.tensor(1.5)
    allowed = multiple_allowed(DRAWS) * torch.finfo(torch.float32).eps / 2
    (only,) = judged(lambda inputs: {"same": inputs[0] * 1}, [x], {"same": x})
    assert only.bound == pytest.approx((allowed, allowed))


def test_a_result_that_is_missing_is_no_right_one() -> None:
    with pytest.raises(ValueError, match="results: got , expected output"):
        judged(product, factors(torch.float32), {})


def test_a_result_in_another_dtype_is_no_right_one() -> None:
    inputs = factors(torch.bfloat16)
    with pytest.raises(ValueError, match=r"output: got torch\.float32, expected torch\.bfloat16 or torch\.float64"):
        judged(product, inputs, {"output": exact(inputs).float()})
