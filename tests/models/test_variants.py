"""The network without one of its exchanges, or without both."""

import itertools

import pytest
import torch

from seqca.models import SequentialCrossAttentionNet, to_published_state

TASKS = {"semseg": 5, "depth": 1}
VARIANTS = [switches for switches in itertools.product([True, False], repeat=2) if not all(switches)]


def variant(cross_task: bool, cross_scale: bool) -> SequentialCrossAttentionNet:
    torch.manual_seed(0)
    return SequentialCrossAttentionNet(TASKS, drop_path=0.0, cross_task=cross_task, cross_scale=cross_scale)


@pytest.mark.parametrize(("cross_task", "cross_scale"), VARIANTS)
def test_a_variant_trains_every_parameter_it_has(cross_task: bool, cross_scale: bool) -> None:
    net = variant(cross_task, cross_scale)
    output = net(torch.randn(2, 3, 64, 96))
    assert output.final["semseg"].shape == (2, 5, 16, 24)
    sum(x.square().mean() for group in (output.final, *output.deep) for x in group.values()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_without_cross_task_attention_a_task_learns_nothing_from_the_others_at_its_own_scale() -> None:
    net = variant(cross_task=False, cross_scale=True)
    assert list(net.cross_task.parameters()) == []
    features = {task: torch.randn(1, 36, 8, 8) for task in TASKS}
    assert net.cross_task[0](features) is features


def test_without_cross_scale_attention_the_head_aggregates_the_four_maps_alone() -> None:
    net = variant(cross_task=True, cross_scale=False)
    assert net.heads["depth"].attention is None
    assert net.heads["depth"].aggregation.conv.weight.shape == (540, 540, 1, 1)
    assert variant(True, True).heads["depth"].aggregation.conv.weight.shape == (1080, 1080, 1, 1)


@pytest.mark.parametrize(("cross_task", "cross_scale"), VARIANTS)
def test_a_variant_has_no_published_format_and_the_conversion_says_so(cross_task: bool, cross_scale: bool) -> None:
    missing = [f"{name}=False" for name, on in (("cross_task", cross_task), ("cross_scale", cross_scale)) if not on]
    with pytest.raises(ValueError, match=f"state: got a network with {', '.join(missing)}, expected the whole one"):
        to_published_state(variant(cross_task, cross_scale).state_dict())


def test_one_task_alone_has_a_published_format_though_it_exchanges_nothing_with_others() -> None:
    net = SequentialCrossAttentionNet({"depth": 1})
    assert "heads.depth.last_layer.0.weight" in to_published_state(net.state_dict())
