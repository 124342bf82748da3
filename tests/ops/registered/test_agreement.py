"""Every operator on every backend agrees with the reference, whatever its tensors are like."""

from typing import Any

import pytest
import torch
from torch import Generator

from seqca.ops.shared.dispatch import refusal, use_backend
from seqca.ops.shared.operator import OPERATORS, Call, Operator
from seqca.ops.verification.judge import evaluate, inputs_of, judge, mapped, prepared

from ..layouts import FAR_ELEMENTS, GRADIENT_LAYOUTS, INPUT_LAYOUTS, far_apart
from .calls import DEVICE, FUSED, drawn, runnable
from .pairs import Case, all_pairs

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CHANNELS = (18, 36, 60, 72, 144, 288)
TOKENS = (1, 63, 111)
SLOW = {"cross_attention", "upsampled_loss"}
"""The interpreter takes long for a call of theirs: with 72 channels one for each sample, and none of more, which their
kernels split like these."""


def cases_of(operator: Operator, backend: str) -> list[Case]:
    """Every two of the things a call may differ in; on a CPU many channels with few tokens, see `affordable`, and in
    Triton's slow interpreter fewer cases with many channels."""
    channels = [n for n in CHANNELS if refusal(operator, backend, Call(DEVICE, torch.float32, n, 111)) is None]
    axes: dict[str, tuple[Any, ...]] = {
        "gradient_layout": tuple(GRADIENT_LAYOUTS),
        "layout": tuple(INPUT_LAYOUTS),
        "dtype": tuple(dtype for dtype in DTYPES if backend in runnable(operator, dtype)),
        "sample": tuple(operator.samples),
    }
    if DEVICE != "cpu":
        return all_pairs(channels=channels, tokens=TOKENS, **axes)
    if backend != "triton":
        return affordable(all_pairs(channels=channels, tokens=TOKENS, **axes))
    slow = operator.name in SLOW
    few = [n for n in channels if n <= (36 if slow else 72)]
    narrow = affordable(all_pairs(channels=few, tokens=TOKENS, **axes), 0 if slow else 36)
    # Each of them with every value of the other axes, which change all at once.
    axes |= {
        "tokens": (9, 1, 9, 1) if slow else (63, 1, 111, 1, 9, 9, 1),
        "dtype": (torch.float32, *[torch.float16] * 6),
    }
    widths = [n for n in channels if (n == 72 if slow else n > 72)]
    calls = len(operator.samples) if slow else max(map(len, axes.values()))
    wide = [
        {"channels": n, **{name: values[i % len(values)] for name, values in axes.items()}}
        for n in widths
        for i in range(calls)
    ]
    return narrow + wide


def affordable(cases: list[Case], narrow: int = 36) -> list[Case]:
    """The same, many channels, those of more than `narrow`, with many tokens once each and then with few: a CPU takes
    long for them."""
    met, changed = set(), []
    for case in cases:
        pair = case["channels"], case["tokens"]
        many = case["channels"] > narrow and case["tokens"] > 9
        changed.append(case | {"tokens": 9} if many and pair in met else case)
        met.add(pair)
    return changed


def agreement_cases() -> list[Any]:
    """The cases of every operator and backend."""
    params, met = [], set()
    for operator in OPERATORS.values():
        for backend in runnable(operator, torch.float32):
            for case in cases_of(operator, backend):
                name = "-".join(str(value).removeprefix("torch.").replace(" ", "_") for value in case.values())
                # Every value of the axes is with one or the other of these; all cases would take an hour.
                every = (18, 144, 288) if operator.name == "linear_attention" else (18, 144)
                width = operator.name, backend, case["channels"]
                marks = [pytest.mark.processor] if case["channels"] in every else []
                if not marks and (case["tokens"] > 1 or width in met):  # the first of one token is for all to run
                    marks = [pytest.mark.exhaustive]
                elif not marks:
                    met.add(width)
                params.append(
                    pytest.param(operator, backend, case, id=f"{operator.name}-{backend}-{name}", marks=marks)
                )
    return params


@pytest.mark.parametrize(("operator", "backend", "case"), agreement_cases())
def test_agrees_with_the_reference_whatever_the_strides_sizes_and_dtype(
    operator: Operator, backend: str, case: Case, poison: None
) -> None:
    sample, gradients = drawn(operator, case["sample"], case["dtype"], case["tokens"], case["channels"])
    layout = INPUT_LAYOUTS[case["layout"]]
    labels = {name: mapped(layout, x) for name, x in sample.arguments.items() if name not in sample.differentiable}
    sample = prepared(sample._replace(arguments=sample.arguments | labels), layout)
    gradients = [GRADIENT_LAYOUTS[case["gradient_layout"]](g) for g in gradients]
    with use_backend(backend):
        results = evaluate(operator.function, sample, gradients)
    for verdict in judge(operator, sample, gradients, results):
        assert verdict.ok, str(verdict)


def test_poison_reaches_every_way_to_allocate(poison: None) -> None:
    x = torch.zeros(3, device=DEVICE)
    for fresh in (torch.empty(3, device=DEVICE), torch.empty_like(x), x.new_empty(3), x.new_empty_strided((3,), (2,))):
        assert fresh.isnan().all()


def axes_of(operator: Operator) -> range:
    """Of the tensors with most dimensions."""
    sample = next(iter(operator.samples.values()))(5, 2, Generator())
    return range(max(x.ndim for x in inputs_of(sample)))


FUSED_AXES = [
    pytest.param(*fused.values, axis, id=f"{fused.id}-{axis}") for fused in FUSED for axis in axes_of(fused.values[0])
]


@pytest.mark.parametrize(("operator", "backend", "axis"), FUSED_AXES)
def test_reaches_elements_past_two_to_the_31(operator: Operator, backend: str, axis: int) -> None:
    buffer = torch.empty(FAR_ELEMENTS, dtype=torch.float16, device=DEVICE)
    sample, gradients = drawn(operator, next(iter(operator.samples)), torch.float16, tokens=5)
    slots = iter(range(64))
    sample = prepared(sample, lambda x: far_apart(x, axis, buffer, next(slots)))
    gradients = [far_apart(g, axis, buffer, next(slots)) for g in gradients]
    with use_backend(backend):
        results = evaluate(operator.function, sample, gradients)
    for verdict in judge(operator, sample, gradients, results):
        assert verdict.ok, str(verdict)
