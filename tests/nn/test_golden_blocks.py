"""Every block gives the published numbers: outputs, gradients, running statistics, evaluation mode."""

import pytest

from seqca.models.network import TaskHead
from seqca.nn import CrossAttention, CrossTaskAttention, FeaturePropagation, WindowSelfAttention
from tests.golden import Block

TASKS = ("semseg", "depth", "normals")


pytestmark = pytest.mark.processor


@pytest.mark.parametrize("name", ["cross_attention", "cross_attention_two_sizes"])
def test_cross_attention_gives_the_published_numbers(name):
    module = CrossAttention(12)
    block = Block(module, name, "heads.x.attention.attention.0.", "heads.x.cross_scale_attention0.")
    block.check(lambda inputs: {"o": module(inputs["target"], inputs["source"])})


def test_cross_task_attention_gives_the_published_numbers():
    module = CrossTaskAttention(TASKS, 8)
    Block(module, "cross_task_attention", "cross_task.0.", "distillation_scale_0.", TASKS).check(module)


def test_window_self_attention_gives_the_published_numbers():
    module = WindowSelfAttention(18, depth=2, heads=6)
    block = Block(module, "window_self_attention", "self_attention.0.", "swTransform1.")
    block.check(lambda inputs: {"o": module(inputs["x"])})


def test_feature_propagation_gives_the_published_numbers():
    module = FeaturePropagation(TASKS, 16)
    Block(module, "feature_propagation", "propagation.0.", "fpm_scale_1.", TASKS).check(module)


def test_cross_scale_attention_and_aggregation_give_the_published_numbers():
    module = TaskHead([4, 8, 16, 32], 5)
    block = Block(module, "cross_scale_head", "heads.x.", "heads.x.")
    block.check(lambda inputs: {"o": module([inputs[f"scale_{k}"] for k in range(4)])})
