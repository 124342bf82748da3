"""Float32 in float32 while something is judged, and torch's switches as they were afterwards."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import backends

from seqca.ops.verification.precision import without_tf32

SWITCHES = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv)


def state() -> list[object]:
    """Of all switches; torch refuses to read some where others contradict them."""
    found: list[object] = [switch.fp32_precision for switch in SWITCHES]
    for read in (torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append("contradiction")
    return found


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    before = state()
    yield
    backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    for switch, precision in zip(SWITCHES, before, strict=False):
        switch.fp32_precision = precision
    assert state() == before


def older_switches() -> None:
    torch.set_float32_matmul_precision("medium")
    backends.cudnn.allow_tf32 = False


def newer_switch_of_products() -> None:
    backends.cuda.matmul.fp32_precision = "tf32"


def newer_switch_of_convolutions() -> None:
    backends.cudnn.conv.fp32_precision = "ieee"


def switch_of_all() -> None:
    backends.fp32_precision = "tf32"


@pytest.mark.parametrize(
    "change",
    [lambda: None, older_switches, newer_switch_of_products, newer_switch_of_convolutions, switch_of_all],
    ids=["default", "older", "products", "convolutions", "all"],
)
def test_nothing_is_computed_with_tf32_and_all_switches_are_as_before(change: Callable[[], None]) -> None:
    change()
    before = state()
    with without_tf32():
        assert state() == ["ieee"] * len(SWITCHES) + ["highest", False]
    assert state() == before
