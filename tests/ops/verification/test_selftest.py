"""The check on the user's own machine."""

from importlib import import_module
from typing import Any

import pytest
import torch

from seqca import selftest
from seqca.ops.shared.operator import OPERATORS


@pytest.fixture(autouse=True)
def less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch algebra alone, in one dtype that it runs; of the operators one."""
    module = import_module("seqca.ops.verification.selftest")  # the name belongs to the function in the package
    monkeypatch.setattr(module, "BACKENDS", ("reference", "aten", "cuda"))
    monkeypatch.setattr(module, "_DTYPES", (torch.float32,))
    monkeypatch.setattr(module, "OPERATORS", {"linear_attention": OPERATORS["linear_attention"]})


def plant(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    """Passes what the backend's backward returns, as a tuple of lists, through `fault`."""
    implementation = OPERATORS["linear_attention"].implementation("aten")
    right = implementation.backward
    monkeypatch.setattr(implementation, "backward", lambda *args: fault(*right(*args)))


def test_what_is_right_and_what_cannot_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest("cpu")
    right, not_run, *numbers = capsys.readouterr().out.splitlines()
    assert right == "linear_attention     aten     float32   right on 3 samples, outputs and gradients"
    assert not_run.startswith("linear_attention     cuda     float32   not run on sample 'one map': ")
    assert numbers == ["aten: 1 right", "cuda: 1 not run", "All 1 that could run are right"]


def test_a_sample_that_is_refused_does_not_keep_others_from_being_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, lambda dq, dk, dv: (dq, [2 * x for x in dk], dv))
    module = import_module("seqca.ops.verification.selftest")
    reasons = iter(["too few tokens", None, None])
    monkeypatch.setattr(module, "refusal", lambda operator, backend, call: next(reasons, "no such backend"))
    assert not selftest("cpu")
    assert "aten     float32   wrong on several maps, gradient of k[0]: " in capsys.readouterr().out


def test_a_wrong_gradient_is_told_with_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, lambda dq, dk, dv: (dq, [2 * x for x in dk], dv))
    assert not selftest("cpu")
    assert "wrong on one map, gradient of k[0]: largest error" in capsys.readouterr().out


def test_an_implementation_that_fails_does_not_end_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*results: Any) -> None:
        raise RuntimeError("no kernel image\nfor this device")

    plant(monkeypatch, fail)
    assert not selftest("cpu")
    failed, *rest = capsys.readouterr().out.splitlines()
    assert failed.endswith("wrong on one map, RuntimeError: no kernel image")
    assert rest[1:] == ["aten: 1 wrong", "cuda: 1 not run", "Wrong: 1 of 1 that ran"]
