"""The reference judged as if it were a kernel, over all operators and samples.

A smaller number of draws than that of the tables in docs/tolerance.md.
"""

import pytest
import torch

from .alarms import count
from .settings import SETTINGS, Setting, settings


@pytest.mark.processor
@pytest.mark.parametrize("setting", [*SETTINGS, *settings(torch.float64)], ids=str)
def test_fresh_draws_of_the_reference_raise_no_alarm(setting: Setting) -> None:
    found = count(setting, draws=8)
    assert found.draws == 8 and found.comparisons >= 16
    assert found.alarms == 0, found
