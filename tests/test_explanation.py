"""What is said about the choice of a backend."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import seqca
from seqca import extension
from seqca.network_calls import network_calls
from seqca.ops.shared import availability
from seqca.ops.shared.dispatch import refusal, use_backend
from seqca.ops.shared.operator import OPERATORS, Call


@pytest.fixture(autouse=True)
def nothing_forced() -> Iterator[None]:
    with use_backend("auto"):
        yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU, with Triton and the extension."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(availability, "TRITON_INSTALLED", True)
    monkeypatch.setattr(availability, "TRITON_INTERPRETED", False)
    monkeypatch.setattr(extension, "ABSENCE", None)


def test_every_operator_is_explained_at_the_shapes_of_the_network() -> None:
    calls = [(choice.operator, choice.call) for choice in seqca.explain("cpu", torch.float16)]
    recorded = network_calls()
    of_network = [(name, call) for name, call in calls if recorded[name]]
    assert of_network == [
        (name, Call("cpu", torch.float16, call.channels, call.tokens)) for name in OPERATORS for call in recorded[name]
    ]
    assert ("upsampled_loss", Call("cpu", torch.float16, channels=40, tokens=480 * 640)) in calls
    assert {call.channels for name, call in calls if name == "cross_attention"} == {36, 72, 144, 288}


def test_an_operator_that_the_network_does_without_is_explained_for_a_map_of_each_scale() -> None:
    calls = [choice.call for choice in seqca.explain("cpu", operator="linear_attention")]
    assert [(call.channels, call.tokens) for call in calls] == [(36, 19200), (72, 4800), (144, 1200), (288, 300)]


def test_a_reason_is_given_against_every_other_backend() -> None:
    for choice in seqca.explain("cpu"):
        assert choice.backend == "aten"
        assert set(choice.others) == {"reference", "triton", "cuda"}
        assert choice.others["reference"] == "can run, aten comes first"
        assert choice.others["cuda"] == refusal(OPERATORS[choice.operator], "cuda", choice.call)


def test_one_operator_can_be_asked_about_at_a_shape_of_ones_own() -> None:
    (choice,) = seqca.explain("cpu", operator="linear_attention", shape=(64, 4096))
    assert choice.operator == "linear_attention"
    assert choice.call == Call("cpu", torch.float32, 64, 4096)


@pytest.mark.usefixtures("gpu")
def test_the_text_tells_calls_that_end_alike_together_and_others_apart() -> None:
    explanation = seqca.explain(operator="linear_attention", dtype=torch.bfloat16)
    assert str(explanation) == "\n".join([
        "linear_attention: cuda",
        "    for cuda, bfloat16, 36 channels, tokens: 19200",
        "    not reference: can run, cuda comes first",
        "    not aten: can run, cuda comes first",
        "    not triton: can run, cuda comes first",
        "linear_attention: triton",
        "    for cuda, bfloat16, 72 channels, tokens: 4800",
        "    not reference: can run, triton comes first",
        "    not aten: can run, triton comes first",
        "    not cuda: can run, triton comes first",
        "linear_attention: triton",
        "    for cuda, bfloat16, 144 channels, tokens: 1200",
        "    not reference: can run, triton comes first",
        "    not aten: can run, triton comes first",
        "    not cuda: the kernels hold at most 72 channels, these are 144",
        "linear_attention: triton",
        "    for cuda, bfloat16, 288 channels, tokens: 300",
        "    not reference: can run, triton comes first",
        "    not aten: can run, triton comes first",
        "    not cuda: the kernels hold at most 72 channels, these are 288",
    ])  # fmt: skip


def test_what_is_forced_is_told_and_that_it_would_raise() -> None:
    with use_backend("reference"):
        assert seqca.explain("cpu")[0].others["aten"] == "can run, reference is forced"
    with use_backend("cuda"):
        (choice,) = explanation = seqca.explain("cpu", operator="linear_attention", shape=(36, 100))
    assert choice.backend is None
    assert choice.others["cuda"] == refusal(OPERATORS["linear_attention"], "cuda", choice.call)
    assert str(explanation).startswith("linear_attention: raises\n    for cpu, float32, 36 channels, tokens: 100\n")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "gpu"}, ValueError, "device: got 'gpu', expected one that torch can use here: cpu"),
        ({"device": "xpu"}, ValueError, "device: got 'xpu', expected one that torch can use here: cpu"),
        ({"device": torch.device("cpu")}, ValueError, r"device: got device\(type='cpu'\), expected one"),
        ({"dtype": "float32"}, TypeError, "dtype: got 'float32', expected a floating torch.dtype"),
        ({"dtype": torch.int64}, TypeError, "dtype: got torch.int64, expected a floating torch.dtype"),
        ({"operator": "attention"}, ValueError, "operator: got 'attention', expected one of .*linear_attention, "),
        ({"shape": (36,)}, ValueError, r"shape: got \(36,\), expected two positive integers: channels, tokens"),
        ({"shape": 36}, ValueError, "shape: got 36, expected two positive integers"),
        ({"shape": (36, 0)}, ValueError, r"shape: got \(36, 0\), expected two positive integers"),
    ],
)
def test_bad_arguments_are_named_at_the_door(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        seqca.explain(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("function", [seqca.explain, seqca.selftest])
def test_nothing_is_said_about_a_gpu_that_is_not_there(function: Any) -> None:
    with pytest.raises(ValueError, match=r"device: got 'cuda', expected one that torch can use here: cpu$"):
        function("cuda")
