"""timm's backbones with fused blocks: timm's keys and numbers, less kept, and hooks that go on working."""

from typing import Any

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from benchmarks.harness.quantities import kept_bytes
from seqca.models.backbone import create_backbone
from seqca.models.fused_backbone import fuse_blocks
from seqca.ops import use_backend
from seqca.ops.shared.dispatch import record_calls

NAME = "hrnet_w18_small_v2"


def backbone_of(name: str, fused: bool) -> nn.Module:
    """In float64, always with the same weights."""
    torch.manual_seed(0)
    backbone = create_backbone(name).double().train()
    return fuse_blocks(backbone) if fused else backbone


def results_of(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Maps, gradients and buffers."""
    maps = backbone(images)
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    gradients = torch.autograd.grad(sum(x.square().mean() for x in maps), parameters)
    results = {str(k): x for k, x in enumerate(maps)} | dict(zip(names, gradients, strict=True))
    return results | dict(backbone.named_buffers())


def test_keys_maps_gradients_and_running_statistics_are_those_of_timm() -> None:
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for name in (NAME, "resnet18", "resnet26"):
        fused, plain = (backbone_of(name, fused) for fused in (True, False))
        assert list(fused.state_dict()) == list(plain.state_dict())
        with record_calls() as calls:
            found = results_of(fused, images)
        assert calls
        for key, value in results_of(plain, images).items():
            assert (found[key] - value).abs().max() <= 1e-9 * value.abs().max().clamp(min=1), key


def test_the_backbone_keeps_less_than_three_quarters() -> None:
    images, kept = torch.randn(1, 3, 96, 128), {}
    for fused in (True, False):
        backbone = backbone_of(NAME, fused).float()
        with use_backend("aten"):
            own = [*backbone.parameters(), *backbone.buffers()]
            kept[fused] = kept_bytes(lambda backbone=backbone: backbone(images), own)
    assert kept[True] < 0.75 * kept[False]


def test_a_hook_on_a_layer_inside_a_block_is_run() -> None:
    backbone, seen = backbone_of(NAME, True), []
    backbone.layer1[0].conv2.register_forward_hook(lambda *_: seen.append("block"))
    backbone.bn1.register_forward_hook(lambda *_: seen.append("stem"))
    backbone(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert seen == ["stem", "block"]


@pytest.mark.parametrize(
    "others",
    [{"act_layer": nn.SiLU}, {"drop_path": nn.Dropout(0.5)}, {"dilation": 2}, {"attn_layer": "se"}],
    ids=lambda others: next(iter(others)),
)
def test_a_block_with_other_parts_computes_as_before(others: dict[str, Any]) -> None:
    x, outputs = torch.randn(2, 16, 8, 8), []
    for fused in (False, True):
        torch.manual_seed(0)
        block = BasicBlock(16, 16, **others)
        with record_calls() as calls:
            torch.manual_seed(1)
            outputs.append((fuse_blocks(block) if fused else block)(x))
        assert calls == []
    assert torch.equal(*outputs)
