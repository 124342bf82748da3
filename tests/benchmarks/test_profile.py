"""The profile of a training step: which part of the network a kernel belongs to."""

import pytest

from benchmarks.profile import Kernel, by_part, median_by_part, table

MARK = "part_begins"


def test_a_kernel_belongs_to_the_part_whose_mark_is_the_last_before_it() -> None:
    kernels = [
        Kernel("copy", 0.0, 0.5),
        Kernel(MARK, 1.0, 0.1),
        Kernel("product", 2.0, 0.5),
        Kernel("product", 3.0, 0.25),
        Kernel(MARK, 4.0, 0.1),
        Kernel("product", 5.0, 2.0),
    ]
    step = by_part(kernels, [("heads", "forward"), ("heads", "backward")])
    assert step == {
        "seconds": 7.0,
        "kernels": [
            ("", "forward", "copy", 1, 0.5),
            ("heads", "forward", "product", 2, 0.75),
            ("heads", "backward", "product", 1, 2.0),
        ],
    }
    assert "7000.0 ms from first to last, 3250.0 ms in 4 kernels" in table("auto", step)


def test_a_mark_that_the_stream_lost_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="marks: got 1 in the stream, expected 2"):
        by_part([Kernel(MARK, 0.0, 0.1)], [("heads", "forward"), ("losses", "forward")])


def test_on_a_cpu_the_median_step_is_told_without_the_first() -> None:
    runs = iter([[0.0, 50.0, 99.0], *([0.0, 1.0, 1.0 + n] for n in (4, 2, 5, 3, 1))])
    marks = [("heads", "forward"), ("heads", "backward")]
    assert median_by_part(lambda: next(runs), marks) == {
        "seconds": 4.0,
        "kernels": [("heads", "forward", "", 1, 1.0), ("heads", "backward", "", 1, 3.0)],
    }
