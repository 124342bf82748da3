"""Planted faults of eight times the reference's typical error or more: the tolerance rule must see every one."""

from collections.abc import Callable
from functools import cache

import pytest

from seqca.ops.verification.draws import Results, verdict

from .faults import FAULTS, TIMES
from .settings import SETTINGS, Drawn, Setting


@cache
def drawn_of(setting: Setting) -> Drawn:
    return setting.drawn()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_planted_fault_is_seen(setting: Setting, fault: Callable[[Drawn], Results | None]) -> None:
    drawn = drawn_of(setting)
    results = fault(drawn)
    if results is None:
        return  # nothing to be wrong here: no constant, one channel, another dtype
    exact = drawn.compute([x.double() for x in drawn.inputs])
    large = False
    for what, x in results.items():
        judged = verdict(what, x, exact[what], drawn.allowance[what], drawn.norms)
        sizes = zip(judged.found, drawn.allowance[what].typical, strict=True)
        if not all(error < TIMES * typical or error == 0 for error, typical in sizes):  # NaN is large
            large = True
            assert not judged.ok, str(judged)
    assert large, "the fault is too small to say anything"
