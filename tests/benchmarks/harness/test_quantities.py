"""What does not depend on a clock: bytes and operators."""

import pytest
import torch
from torch import Tensor

from benchmarks.harness.quantities import highest, kept_bytes, operators_run, peak_bytes, peaks


def test_kept_bytes_are_those_of_distinct_storages_without_parameters() -> None:
    x = torch.randn(10, 10, requires_grad=True)
    weight = torch.randn(10, 10, requires_grad=True)
    expected = 4 * (100 + 100 + 100)  # x for the product; exp's result for exp; its square's operand is the same

    def forward() -> Tensor:
        y = (x @ weight).exp()  # keeps x and weight; y
        z = y * y  # y again
        return z.t().sin().sum()  # z through a view

    assert kept_bytes(forward, [weight]) == expected
    assert kept_bytes(forward, []) == expected + 400


def test_a_small_view_keeps_its_whole_storage() -> None:
    base = torch.randn(1000, requires_grad=True)
    assert kept_bytes(lambda: base[:3].sin(), []) == 4000


def test_forward_without_gradient_keeps_nothing() -> None:
    x = torch.randn(10, requires_grad=True)
    with torch.no_grad():
        assert kept_bytes(lambda: x.exp(), []) == 0


@torch.library.custom_op("benchmarks_test::triple_sine", mutates_args=())
def triple_sine(x: Tensor) -> Tensor:
    return (3 * x.t().reshape(-1)).sin()


@triple_sine.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.numel())


triple_sine.register_autograd(
    lambda ctx, gradient: (3 * gradient * (3 * ctx.saved_tensors[0].t().reshape(-1)).cos()).view(4, 3).t(),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


def test_kept_bytes_see_what_custom_operators_save() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    assert kept_bytes(lambda: triple_sine(x.exp()), []) == 48  # exp keeps its result, the argument


def test_operators_inside_custom_operators_count_and_views_do_not() -> None:
    x = torch.randn(3, 4)
    plain = operators_run(lambda: (3 * x.t().reshape(-1)).sin())
    assert plain == 3  # the copy in reshape, the product, the sine
    assert operators_run(lambda: triple_sine(x)) == plain
    assert operators_run(lambda: x.view(12)[None].expand(2, 12).detach()) == 0


def test_operators_of_the_backward_pass_count() -> None:
    x = torch.randn(5, requires_grad=True)
    assert operators_run(lambda: x.sin()) == 1
    gradient = torch.ones(5)
    assert operators_run(lambda: torch.autograd.grad(x.sin(), x, gradient)) == 3  # sin; cos, mul


def test_peak_is_the_most_that_was_allocated_at_a_time() -> None:
    x = torch.randn(1000)

    def work() -> Tensor:
        y = x.exp()
        z = y.cos()
        del y
        return z.sin()

    assert peak_bytes(work) == 8000
    assert highest([4, 4, -4, 8, -4]) == 12
    assert highest([]) == 0


def test_on_a_gpu_the_reserved_peak_stands_beside_that_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = {"allocated": 30, "reserved": 60, "most allocated": 30, "most reserved": 60}

    def work() -> None:
        allocator.update({"most allocated": 130, "most reserved": 260})

    def emptied() -> None:
        allocator["reserved"] = 40

    for name, found in {
        "synchronize": lambda: None,
        "empty_cache": emptied,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: allocator["allocated"],
        "memory_reserved": lambda: allocator["reserved"],
        "max_memory_allocated": lambda: allocator["most allocated"],
        "max_memory_reserved": lambda: allocator["most reserved"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, found)
    assert peaks(work, "cuda") == {"peak_bytes": 100, "reserved_bytes": 220}
