"""Planted faults of eight times the reference's typical error or more: the tolerance rule must see every one."""

from collections.abc import Callable
from functools import cache

import pytest
import torch

from seqca.ops.verification.draws import Results, verdicts

from .faults import (
    FAULTS,
    SOURCES,
    TIMES,
    WITH_BATCH_STATISTICS,
    WITHOUT_CONSTANT,
    bias_of_a_channel,
    mean_held,
    one_source_forgotten,
    one_wrong_element,
    products_in_tf32,
    variance_held,
    wrong_constant,
)
from .settings import SETTINGS, Drawn, Setting


def can_have(setting: Setting, fault: Callable[[Drawn], Results]) -> bool:
    """Whether a fault is one in that sample and dtype."""
    sample = setting.operator, setting.sample
    if fault is wrong_constant:
        return sample not in WITHOUT_CONSTANT
    if fault is one_source_forgotten:
        return setting.operator in SOURCES
    if fault in (mean_held, variance_held):
        return sample in WITH_BATCH_STATISTICS
    return fault is not products_in_tf32 or setting.dtype == torch.float32


ON_EVERY_RESULT = (one_wrong_element, bias_of_a_channel)

CASES = [
    pytest.param(setting, fault, id=f"{setting}-{fault.__name__}")
    for setting in SETTINGS
    for fault in FAULTS
    if can_have(setting, fault)
]


@cache
def drawn_of(setting: Setting) -> Drawn:
    return setting.drawn()


@pytest.mark.parametrize(("setting", "fault"), CASES)
def test_a_planted_fault_is_seen(setting: Setting, fault: Callable[[Drawn], Results]) -> None:
    drawn = drawn_of(setting)
    exact = drawn.compute([x.double() for x in drawn.inputs])
    results = fault(drawn)
    large = []
    for judged in verdicts(results, exact, drawn.allowance, drawn.norms):
        sizes = zip(judged.found, drawn.allowance[judged.what].typical, strict=True)
        if not all(error < TIMES * typical or error == 0 for error, typical in sizes):  # NaN is large
            large.append(judged.what)
            assert not judged.ok, str(judged)
    assert large, "the fault is too small to say anything"
    if fault in ON_EVERY_RESULT:
        assert large == list(results)
