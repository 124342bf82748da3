"""Other options of launches: which are tried, and what is told of them."""

from typing import Any

import pytest
import torch
from seqca.kernels.launch import Launch

from benchmarks.gpu.launch_options import by_time, grouped, other_options, recorded, table, tried
from seqca.ops import softplus, use_backend

CPU = torch.device("cpu")


def launches(*sizes: int) -> list[Launch]:
    """Of softplus on vectors, forward and backward."""

    def work() -> list[torch.Tensor]:
        for size in sizes:
            softplus(torch.ones(size, requires_grad=True)).sum().backward()
        return []

    with use_backend("triton"):
        return recorded(work)


def test_launches_on_the_same_shapes_are_one_group() -> None:
    groups = grouped(launches(8, 8, 9))
    assert sorted((group[0].kernel.fn.__name__, len(group)) for group in groups) == [
        ("softplus_backward", 1), ("softplus_backward", 2),
        ("softplus_forward", 1), ("softplus_forward", 2),
    ]  # fmt: skip


def test_other_options_are_half_and_twice_the_warps_and_other_stages() -> None:
    own = {"num_warps": 16, "num_stages": 2, "maxnreg": 128}
    assert list(other_options(own)) == [
        {"num_warps": 8, "num_stages": 2, "maxnreg": 255},
        *({"num_warps": 16, "num_stages": stages, "maxnreg": 128} for stages in (1, 3, 4)),
    ]


def test_what_does_not_run_with_other_options_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(launch: Launch, device: torch.device) -> float:
        raise RuntimeError("too many registers")

    monkeypatch.setattr("benchmarks.gpu.launch_options.timed", refuse)
    (_, message), *_ = tried(launches(8)[0], CPU)
    assert message == "RuntimeError: too many registers"


def test_the_table_begins_with_what_wins_most_of_the_step() -> None:
    def entry(kernel: str, number: int, before: float, after: float) -> dict[str, Any]:
        own = {"num_warps": 4}
        others = [({"num_warps": 2}, after), ({"num_warps": 8}, "RuntimeError: spills")]
        return {"kernel": kernel, "grid": (1,), "options": own, "launches": number, "seconds": before, "others": others}

    lines = table([entry("long", 1, 3e-3, 2e-3), entry("often", 10, 3e-4, 1e-4)]).splitlines()
    assert lines == ["  2000.0 us  often [1]: {'num_warps': 2}", "  1000.0 us  long [1]: {'num_warps': 2}"]


def test_each_group_has_a_record_and_a_launch() -> None:
    (entry, launch), *_ = by_time(grouped(launches(8, 8)), CPU)
    assert entry["launches"] == 2
    assert launch.kernel.fn.__name__ == entry["kernel"]
