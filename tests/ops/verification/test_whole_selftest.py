"""The check on the user's own machine, of all operators."""

from importlib import import_module

import pytest
import torch

from seqca import selftest


@pytest.mark.processor
def test_torch_algebra_is_right_on_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("seqca.ops.verification.selftest")  # the name belongs to the function in the package
    monkeypatch.setattr(module, "BACKENDS", ("reference", "aten"))
    monkeypatch.setattr(module, "_DTYPES", (torch.float32,))
    assert selftest("cpu")
