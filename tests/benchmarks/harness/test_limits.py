"""The machine's limits, and how near a time is to them."""

import torch

from benchmarks.harness import exponential_kernel
from benchmarks.harness.case import Cost
from benchmarks.harness.limits import utilisation


def test_the_nearest_limit_is_the_one_that_takes_longest() -> None:
    limits = {
        "copy bandwidth": {"value": 100.0},
        "matrix rate": {"fp32": {"value": 1000.0}},
        "exponential rate": {"value": 10.0},
    }
    assert utilisation(Cost(100, 100, 1), "fp32", limits, 2.0) == ("copy bandwidth", 1.0, 0.5)
    assert utilisation(Cost(100, 5000, 1), "fp32", limits, 10.0) == ("matrix rate", 5.0, 0.5)
    assert utilisation(Cost(100, 100, 80), "fp32", limits, 10.0) == ("exponential rate", 8.0, 0.8)


def test_the_kernel_of_exponentials_does_as_many_as_it_says() -> None:
    x = torch.rand(1024)
    expected = x.clone()
    for _ in range(exponential_kernel.REPEATS):
        expected = torch.exp2(-expected)
    torch.testing.assert_close(exponential_kernel.repeated_exponentials(x), expected)
    assert exponential_kernel.REPEATS > 100  # so that reading and writing do not count
