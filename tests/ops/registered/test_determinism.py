"""Every operator on every backend gives the same bits again."""

from collections.abc import Iterator

import pytest
import torch

from seqca.ops.shared.dispatch import use_backend
from seqca.ops.shared.operator import Operator
from seqca.ops.verification.judge import evaluate, leaves, prepared

from .calls import (
    DEVICE,
    FUSED_HALF,
    FUSED_SAMPLES,
    asked_of_torch,
    assert_same_bits,
    both,
    drawn,
    few,
    first_sample,
    interpreted,
)


# The interpreter runs one program after the other; what reads memory that nobody wrote, agrees with no reference.
@pytest.mark.parametrize(
    ("operator", "backend", "sample"), [case for case in FUSED_SAMPLES if not interpreted(case.values[1])]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_every_run_gives_the_same_bits(operator: Operator, backend: str, sample: str, dtype: torch.dtype) -> None:
    arguments, gradients = drawn(operator, sample, dtype, tokens=100)
    with use_backend(backend):
        first, second = (evaluate(operator.function, arguments, gradients) for _ in range(2))
    assert_same_bits(first, second)


@pytest.fixture
def threads() -> Iterator[None]:
    """Two threads, between which a sum may be shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("operator", "backend", "sample"), [case for case in FUSED_SAMPLES if case.values[1] == "aten"]
)
def test_every_run_on_several_threads_gives_the_same_bits(
    operator: Operator, backend: str, sample: str, threads: None
) -> None:
    arguments, gradients = drawn(operator, sample, torch.float32, tokens=5000, channels=36)
    with use_backend(backend):
        first, *others = (evaluate(operator.function, arguments, gradients) for _ in range(4))
    for other in others:
        assert_same_bits(first, other)


@pytest.mark.parametrize(("operator", "backend", "dtype"), asked_of_torch(FUSED_HALF))
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_under_autocast_computes_as_with_inputs_cast_before(
    operator: Operator, backend: str, dtype: torch.dtype, compiled: bool
) -> None:
    arguments, gradients = first_sample(operator, tokens=few(backend))
    function = both(operator.function)[compiled]
    inside = dtype if operator.casts else torch.float32
    with use_backend(backend):
        cast = prepared(arguments, lambda x: x.to(inside))
        gradients = [g.to(x.dtype) for g, x in zip(gradients, leaves(operator.function(**cast.arguments)), strict=True)]
        expected = evaluate(operator.function, cast, gradients)
        with torch.autocast(DEVICE, dtype):
            results = evaluate(function, arguments, gradients)
    assert_same_bits(results, {what: x if what.startswith("output") else x.float() for what, x in expected.items()})
