"""What a case cannot avoid, against torch's own count of the plain mathematics."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import linear_attention, softplus, upsampled_loss
from benchmarks.cases.attention_schemes import (
    JOINT,
    SEQUENTIAL,
    ConvNorm,
    case,
    count_operations,
    joint,
    pairs,
    sequential,
)
from benchmarks.cases.network_cost import saved_operations
from benchmarks.cases.shapes import CHANNELS, case_set, nyud, tokens_per_scale
from seqca import use_backend
from seqca.nn import FeatureAggregation
from seqca.ops import cross_attention
from seqca.reference.linear_attention import linear_attention as reference
from seqca.tasks import get_task


def counted(function: object, *arguments: object) -> int:
    """Operations of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), use_backend("reference"):
        function(*arguments)  # type: ignore[operator]
    return counter.get_total_flops()


def test_linear_attention_forward_is_what_torch_counts_and_the_sum_of_keys() -> None:
    q, k, v = torch.ones(3, 50, 8), torch.ones(3, 70, 8), torch.ones(3, 70, 6)
    cost = linear_attention.cost(3, 50, 70, 8, 6, 4, "forward")
    assert cost.operations == counted(reference, q, k, v) + 3 * 70 * 8
    assert cost.bytes == 4 * (q.numel() + k.numel() + v.numel() + 3 * 50 * 6)


def test_linear_attention_reads_its_inputs_twice_in_training_and_once_in_each_pass() -> None:
    forward, backward, both = (
        linear_attention.cost(96, 19200, 19200, 36, 36, 2, direction) for direction in ("forward", "backward", "both")
    )
    tensor = 96 * 19200 * 36 * 2
    assert (forward.bytes, backward.bytes, both.bytes) == (4 * tensor, 7 * tensor, 11 * tensor)
    assert both.operations == forward.operations + backward.operations


def test_upsampled_cross_entropy_counts_an_exponential_per_class_and_a_logarithm_per_valid_pixel() -> None:
    data = nyud(2)
    cost = upsampled_loss.cost(get_task("semseg").loss, 40, data, 2, "both")
    assert cost.exponentials == 2 * 640 * (480 - 48) * 41
    assert cost.bytes == 2 * (2 * 40 * 120 * 160 * 2) + 2 * 480 * 640 * 8


def test_softplus_reads_and_writes_a_map_forward_and_once_more_reads_one_backward() -> None:
    forward, backward, both = (softplus.cost(1000, 2, direction) for direction in ("forward", "backward", "both"))
    assert (forward.bytes, backward.bytes, both.bytes) == (4000, 6000, 10000)
    assert (forward.exponentials, backward.exponentials, both.exponentials) == (2000, 1000, 3000)


@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("scales", [1, 2, 4])
def test_the_operations_of_both_schemes_are_what_torch_counts(tasks: int, scales: int) -> None:
    sides, batch = ((3, 4), (2, 3), (1, 3), (1, 2))[:scales], 2
    tokens, channels = tuple(height * width for height, width in sides), CHANNELS[:scales]

    def layer(rows: int, columns: int) -> ConvNorm:
        return ConvNorm(torch.rand(rows, columns, 1, 1), torch.rand(rows), torch.rand(rows))

    maps = [[torch.rand(batch, c, *size) for size, c in zip(sides, channels, strict=True)] for _ in range(tasks)]
    layers = [[[[layer(c, c) for _ in range(5)] for _ in range(tasks)] for c in channels] for _ in range(tasks)]
    projections = [
        [[[layer(c, coarser) for coarser in channels[k + 1 :]] for _ in range(tasks)] for k, c in enumerate(channels)]
        for _ in range(tasks)
    ]
    for scheme, name in ((sequential, SEQUENTIAL), (joint, JOINT)):
        seen: list[int] = []

        def attend(maps: Any, *layers: Any, seen: list[int] = seen) -> Any:
            branches, related = layers[-2:]
            seen += [maps[branches[pair.target].map].numel() for pair in related]
            return cross_attention(maps, *layers)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("benchmarks.cases.attention_schemes.cross_attention", attend)
            total = counted(scheme, maps, layers, projections)
        assert len(seen) == pairs(name, tasks, scales)
        denominators = 2 * sum(seen)  # z·q is no matrix product, and not counted by the formula
        assert total - denominators == batch * count_operations(name, tasks, tokens, channels)


def test_the_schemes_cost_the_same_for_one_task_or_one_scale_and_sequential_less_otherwise() -> None:
    tokens = tokens_per_scale(nyud(1))
    for tasks in range(1, 7):
        for scales in range(1, 5):
            sequential_count, joint_count = (
                count_operations(scheme, tasks, tokens[:scales], CHANNELS[:scales]) for scheme in (SEQUENTIAL, JOINT)
            )
            assert (sequential_count == joint_count) if 1 in (tasks, scales) else (sequential_count < joint_count)


def test_the_case_of_the_attention_schemes_draws_what_both_schemes_take() -> None:
    small = case(2, 3, case_set("quick", "cpu"))
    inputs = small.inputs(torch.Generator().manual_seed(0))
    for scheme in (sequential, joint):
        outputs = scheme(**inputs.arguments)
        assert [x.shape for task in outputs for x in task] == [g.shape for g in inputs.gradients or []]


def test_the_savings_of_algebra_are_those_of_the_head() -> None:
    data, tokens = nyud(1), tokens_per_scale(nyud(1))
    last = len(CHANNELS) - 1
    with torch.device("meta"):
        maps = [torch.empty(1, c, 480 // s, 640 // s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)]
        head = FeatureAggregation(CHANNELS, 1)
        attended = [[x] * (last - k) for k, x in enumerate(maps[:-1])]
        whole = counted(head, maps, attended)
    needed = 2 * 1080 * tokens[0]  # the prediction
    for k, c in enumerate(CHANNELS):  # each distinct map once, at its own resolution
        needed += (1 + last - k) * 2 * 1080 * c * tokens[k]
    assert saved_operations(data) == len(data.tasks) * (whole - needed)
