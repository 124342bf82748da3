"""The baseline of the operator's cases is the published block."""

from dataclasses import replace

import pytest
import torch
from torch import Generator

from benchmarks.cases.norm_relu import BLOCKS, case
from benchmarks.cases.shapes import case_set, nyud
from benchmarks.harness.execution import Execution
from seqca.ops.shared.operator import OPERATORS


@pytest.mark.parametrize("name", BLOCKS)
def test_it_computes_what_the_operators_reference_does(name: str) -> None:
    small = nyud(2)._replace(height=64, width=96)
    block = case(small, 0, name, "fp64", "both", case_set("quick", "cpu"))
    inputs, baseline = block.inputs(Generator().manual_seed(0)), block.providers().available[0]
    reference = replace(baseline, function=OPERATORS["norm_relu"].reference)
    assert baseline.name == block.baseline == "published"
    for found, expected in zip(*(Execution(x, "both").evaluate(inputs) for x in (baseline, reference)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
