"""What a GPU would be asked to launch, on tensors without values."""

from collections import Counter

import torch
from torch import Tensor

from benchmarks.harness.launches import LaunchCounter, choices_of_a_gpu
from seqca.ops import linear_attention, softplus
from seqca.ops.shared.dispatch import use_backend


def without_values(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", requires_grad=True)


def names(counter: LaunchCounter) -> Counter[str]:
    """How often what is launched, whatever the part."""
    found: Counter[str] = Counter()
    for launched, number in counter.counts.items():
        found[launched.name] += number
    return found


def test_operators_that_work_count_and_views_and_allocations_do_not() -> None:
    x = without_values(3, 4)
    with torch.no_grad(), LaunchCounter() as counter:
        y = x.new_empty(4, 3)
        torch.empty_like(x).view(12)[None].expand(2, 12).detach()
        assert not counter.counts
        y.copy_(x.t())
        torch.zeros(3, device="meta")
        (x.t().reshape(-1) * 3).sin()
    assert names(counter) == {"copy_": 1, "zeros": 1, "clone": 1, "mul": 1, "sin": 1}


def test_a_composite_operator_counts_as_its_parts() -> None:
    x = without_values(2, 3)
    with torch.no_grad(), LaunchCounter() as counter:
        torch.nn.functional.linear(x, x, x[:, 0])
    assert names(counter) == {"addmm": 1}


def test_a_custom_operator_counts_as_what_the_backend_of_a_gpu_launches() -> None:
    x = without_values(2, 3)
    with choices_of_a_gpu(), LaunchCounter() as counter:
        y = softplus(x)
        torch.autograd.grad(y, x, without_values(2, 3))
    assert names(counter) == {"softplus_forward": 1, "softplus_backward": 1}
    assert all(launched.triton for launched in counter.counts)
    with use_backend("aten"), torch.no_grad(), LaunchCounter() as counter:
        softplus(x)
    assert not any(launched.triton for launched in counter.counts)


def test_a_selection_counts_and_is_taken_to_be_of_everything() -> None:
    x = without_values(2, 3)
    with LaunchCounter() as counter:
        chosen = x.masked_select(torch.empty(2, 3, dtype=torch.bool, device="meta"))
        torch.autograd.grad(chosen.sum(), x)
    assert chosen.shape == (6,)
    assert {"masked_select", "masked_scatter"} <= names(counter).keys()


def test_gradients_belong_to_the_part_that_made_what_they_are_of() -> None:
    x = without_values(3)
    with LaunchCounter() as counter:
        counter.parts.begin("first", x)
        y = x.sin()
        counter.parts.begin("second", y)
        z = y.exp()
        counter.parts.begin("third", z)
        loss = z.sum()
        counter.parts.turn(loss)
        torch.autograd.grad(loss, x)
    found = {(part, direction, name): number for (part, direction, name, _), number in counter.counts.items()}
    assert found == {
        ("first", "forward", "sin"): 1,
        ("second", "forward", "exp"): 1,
        ("third", "forward", "sum"): 1,
        ("third", "backward", "ones_like"): 1,
        ("second", "backward", "mul"): 1,
        ("first", "backward", "cos"): 1,
        ("first", "backward", "mul"): 1,
    }


def test_no_zeros_are_launched_for_gradients_of_states() -> None:
    q, k, v = (without_values(2, n, 36) for n in (30, 40, 40))
    with choices_of_a_gpu(), LaunchCounter() as counter:
        outputs = linear_attention([q, q], [k, k], [v, v])
        torch.autograd.grad(outputs, [q, k, v], [without_values(2, 30, 36)] * 2)
    assert {name for name in names(counter) if "zeros" in name} == set()
