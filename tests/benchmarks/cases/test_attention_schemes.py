"""Both schemes compute what their references do."""

from dataclasses import replace

from torch import Generator

from benchmarks.cases.attention_schemes import case
from benchmarks.cases.shapes import case_set
from benchmarks.harness.run import checked


def test_each_passes_the_check_on_maps_whose_mean_is_that_of_what_they_have_gathered() -> None:
    """There gradients that all tokens have in common meet what rounding leaves of a mean of many deviations."""
    small = case(2, 2, replace(case_set("quick", "cpu"), scheme_sides=(240, 320)))
    for provider in small.providers().available:
        check = checked(small, provider, small.expected(provider, Generator().manual_seed(0)))[0]["check"]
        assert check["ok"], check["what"]
