"""What the network asks of the operators."""

import torch
from seqca.kernels.linear_attention.cases import TOKENS

from seqca.configuration import NETWORK
from seqca.network_calls import network_calls
from seqca.ops import softplus
from seqca.ops.shared.dispatch import record_calls, use_backend
from seqca.ops.shared.operator import OPERATORS

SCALES = ((36, 19200), (72, 4800), (144, 1200), (288, 300))
"""Channels and tokens of a task's map at each scale, for an image of 480×640 (strides 4, 8, 16, 32)."""


def shapes(operator: str) -> set[tuple[int, int]]:
    return {(call.channels, call.tokens) for call in network_calls()[operator]}


def test_every_operator_that_the_network_calls_is_registered() -> None:
    assert network_calls().keys() <= OPERATORS.keys()


def test_attention_is_called_once_for_the_tasks_of_a_scale_and_once_for_the_coarser_scales_of_all_tasks() -> None:
    between_tasks = {(channels, 4 * tokens) for channels, tokens in SCALES}
    across_scales = {(SCALES[-1][0], 4 * sum(n for _, n in SCALES[k:])) for k in range(3)}
    assert shapes("cross_attention") == between_tasks | across_scales


def test_losses_are_called_for_classes_normals_and_single_channels_at_the_size_of_the_image() -> None:
    assert shapes("upsampled_loss") == {(channels, 480 * 640) for channels in (40, 3, 1)}


def test_twice_the_images_make_twice_the_tokens() -> None:
    doubled = network_calls(batch=2)["upsampled_loss"]
    assert [call.tokens for call in doubled] == [2 * call.tokens for call in network_calls()["upsampled_loss"]]


def test_recording_ends_with_its_block_and_changes_nothing() -> None:
    x = torch.randn(1, 4, 3, 3)
    with use_backend("aten"), record_calls() as calls:
        recorded = softplus(x)
    assert [name for name, _ in calls] == ["softplus"]
    with use_backend("aten"):
        assert torch.equal(softplus(x), recorded)
    assert len(calls) == 1


def test_the_launches_of_the_resource_tables_have_the_shapes_of_the_network() -> None:
    network = dict(zip(NETWORK.channels, NETWORK.tokens(480, 640), strict=True))
    assert {channels: TOKENS[channels] for channels in network} == network
