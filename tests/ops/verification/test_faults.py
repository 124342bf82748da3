"""Planted faults of eight times the reference's typical error or more: the tolerance rule must see every one."""

from collections.abc import Callable
from functools import cache

import pytest
import torch

from seqca.ops.verification.draws import Results, verdict

from .faults import FAULTS, TIMES, WITHOUT_CONSTANT, products_in_tf32, wrong_constant
from .settings import SETTINGS, Drawn, Setting

CASES = [
    pytest.param(setting, fault, id=f"{setting}-{fault.__name__}")
    for setting in SETTINGS
    for fault in FAULTS
    if (fault is not wrong_constant or (setting.operator, setting.sample) not in WITHOUT_CONSTANT)
    and (fault is not products_in_tf32 or setting.dtype == torch.float32)
]


@cache
def drawn_of(setting: Setting) -> Drawn:
    return setting.drawn()


@pytest.mark.parametrize(("setting", "fault"), CASES)
def test_a_planted_fault_is_seen(setting: Setting, fault: Callable[[Drawn], Results]) -> None:
    drawn = drawn_of(setting)
    exact = drawn.compute([x.double() for x in drawn.inputs])
    large = False
    for what, x in fault(drawn).items():
        judged = verdict(what, x, exact[what], drawn.allowance[what], drawn.norms)
        sizes = zip(judged.found, drawn.allowance[what].typical, strict=True)
        if not all(error < TIMES * typical or error == 0 for error, typical in sizes):  # NaN is large
            large = True
            assert not judged.ok, str(judged)
    assert large, "the fault is too small to say anything"
