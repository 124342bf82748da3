"""Registered operators on the backends that run here, and calls to ask things of."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from seqca.ops.shared.dispatch import BACKENDS, refusal
from seqca.ops.shared.operator import OPERATORS, Call, Operator
from seqca.ops.shared.sample import Sample
from seqca.ops.verification.judge import cotangents, rounded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def runnable(operator: Operator, dtype: torch.dtype) -> list[str]:
    """The fused backends that run a dtype here."""
    call = Call(DEVICE, dtype, 36, 111)
    return [name for name in BACKENDS[1:] if refusal(operator, name, call) is None]


def interpreted(backend: str) -> bool:
    """Whether a backend runs in Triton's interpreter, which is slow."""
    return backend == "triton" and DEVICE == "cpu"


FUSED = [
    pytest.param(operator, backend, id=f"{operator.name}-{backend}")
    for operator in OPERATORS.values()
    for backend in runnable(operator, torch.float32)
]
FUSED_HALF = [
    pytest.param(operator, backend, dtype, id=f"{operator.name}-{backend}-{dtype}".replace("torch.", ""))
    for operator in OPERATORS.values()
    for dtype in (torch.bfloat16, torch.float16)
    for backend in runnable(operator, dtype)
]
FUSED_SAMPLES = [
    pytest.param(operator, backend, sample, id=f"{operator.name}-{backend}-{sample}".replace(" ", "_"))
    for operator in OPERATORS.values()
    for backend in runnable(operator, torch.float32)
    for sample in operator.samples
]


def asked_of_torch(cases: list[Any]) -> list[Any]:
    """The cases for what torch does around an operator, of which it knows the name of the backend and no more: one
    without the slow interpreter answers for the oldest versions."""
    return [
        pytest.param(*case.values, id=case.id, marks=pytest.mark.exhaustive) if interpreted(case.values[1]) else case
        for case in cases
    ]


def drawn(
    operator: Operator, sample: str, dtype: torch.dtype, tokens: int = 63, channels: int = 18
) -> tuple[Sample, list[Tensor]]:
    """Arguments and gradients of the outputs."""
    generator = Generator().manual_seed(0)
    arguments = rounded(operator.samples[sample](tokens, channels, generator), dtype, DEVICE)
    return arguments, cotangents(operator, arguments, generator)


def first_sample(operator: Operator, **options: Any) -> tuple[Sample, list[Tensor]]:
    """Arguments and gradients where it does not matter which."""
    return drawn(operator, next(iter(operator.samples)), torch.float32, **options)


def few(backend: str) -> int:
    """Tokens for calls of which only the way is asked that they take."""
    return 9 if interpreted(backend) else 63


def forward_of(operator: Operator) -> Any:
    """The custom operator."""
    return getattr(torch.ops.seqca, operator.name).default


def backward_of(operator: Operator) -> Any:
    """The custom operator of its gradient."""
    return getattr(torch.ops.seqca, f"{operator.name}_backward").default


def both(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A function, and the same compiled without graph breaks, on the compiler's tracing parts alone."""
    torch.compiler.reset()
    return function, torch.compile(function, fullgraph=True, backend="aot_eager")


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The results agree in dtype and to the last bit."""
    assert one.keys() == other.keys()
    for what, result in one.items():
        assert result.dtype == other[what].dtype, what
        assert torch.equal(result, other[what]), what
