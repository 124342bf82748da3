"""What holds for softplus alone; what every operator must do is asked in registered/."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from benchmarks.harness.quantities import kept_bytes
from seqca.ops import linear_attention, softplus, use_backend
from seqca.ops.shared.dispatch import refusal
from seqca.ops.shared.operator import OPERATORS, Call
from seqca.ops.shared.sample import Sample
from seqca.ops.verification.judge import evaluate, judge, prepared

from .layouts import LAYOUTS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPERATOR = OPERATORS["softplus"]
FUSED = [name for name in ("aten", "triton") if refusal(OPERATOR, name, Call(DEVICE, torch.float32, 1, 9)) is None]


def with_gradient(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """The result and its slope."""
    x = x.detach().requires_grad_()
    with use_backend(backend):
        y = softplus(x)
    return y.detach(), torch.autograd.grad(y, x, torch.ones_like(y))[0]


def assert_agrees(x: Tensor, gradient: Tensor, backend: str) -> None:
    """Result and gradient, by the tolerance rule."""
    sample = prepared(Sample({"x": x}, ("x",)), lambda x: x)
    with use_backend(backend):
        results = evaluate(softplus, sample, [gradient])
    for verdict in judge(OPERATOR, sample, [gradient], results):
        assert verdict.ok, str(verdict)


@pytest.mark.processor
@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("low", [-85, -30, -16, -9, -2, -0.1, 0, 0.5, 2, 19, 39, 88, 1000])
def test_digits_are_right_at_every_magnitude(low: float, dtype: torch.dtype, backend: str) -> None:
    generator = Generator().manual_seed(0)
    x = low + torch.rand(1, 16, 200, generator=generator) * max(abs(low) / 20, 0.1)
    gradient = torch.randn(x.shape, generator=generator)
    assert_agrees(x.to(DEVICE, dtype), gradient.to(DEVICE, dtype), backend)


@pytest.mark.parametrize("backend", ["reference", *FUSED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_infinities_have_their_limits_and_nan_stays(dtype: torch.dtype, backend: str) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, largest, -largest], dtype=dtype, device=DEVICE)
    y, slope = with_gradient(x, backend)
    assert y.tolist()[:2] + y.tolist()[3:] == [torch.inf, 0, largest, 0]
    assert slope.tolist()[:2] + slope.tolist()[3:] == [1, 0, 1, 0]
    assert y[2].isnan() and slope[2].isnan()


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (40, 50), (7,), ()], ids=str)
def test_result_and_gradient_have_no_gaps_and_the_order_of_the_argument(
    shape: tuple[int, ...], layout: str, backend: str
) -> None:
    x = LAYOUTS[layout](torch.randn(shape, device=DEVICE))
    y, slope = with_gradient(x, backend)
    assert y.stride() == slope.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("backend", FUSED)
def test_there_may_be_any_number_of_dimensions_that_are_not_neighbours_in_memory(backend: str) -> None:
    x = torch.randn(4, 6, 4, 2, 4, 6, 4, device=DEVICE).half()[::2, ::2, ::2, ::2, ::2, ::2, ::2]
    gradient = torch.randn(2, 2, 2, 3, 1, 3, 2, device=DEVICE).half().permute(6, 5, 0, 4, 2, 3, 1)
    assert_agrees(x, gradient, backend)


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)], ids=str)
def test_nothing_comes_of_nothing(shape: tuple[int, ...], backend: str) -> None:
    y, slope = with_gradient(torch.zeros(shape, device=DEVICE), backend)
    assert y.shape == slope.shape == shape


@pytest.mark.parametrize("backend", ["reference", *FUSED])
def test_half_precision_stays_half_under_autocast(backend: str) -> None:
    x = torch.randn(3, 4, device=DEVICE).half()
    with torch.autocast(DEVICE, torch.float16):
        y, slope = with_gradient(x, backend)
    assert y.dtype == slope.dtype == torch.float16


@pytest.mark.parametrize("x", [1.0, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.complex64)])
def test_what_does_not_fit_is_refused_at_the_door(x: Any) -> None:
    with pytest.raises(TypeError, match=r"^x: got"):
        softplus(x)


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_adds_nothing_to_what_attention_keeps(dtype: torch.dtype, backend: str) -> None:
    features = torch.rand(2, 50, 6, dtype=dtype, device=DEVICE)

    def kept(feature_map: Any) -> int:
        q, k, v = (features.clone().requires_grad_() for _ in range(3))
        with use_backend(backend):
            return kept_bytes(lambda: linear_attention(feature_map(q), feature_map(k), v), [])

    assert kept(softplus) == kept(lambda x: x)
    assert kept(F.softplus) == kept(softplus) + 2 * features.nbytes
