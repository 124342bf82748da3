from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seqca import accelerate
from seqca.acceleration import blocks, fingerprint

from .blocks import BasicBlock, Bottleneck
from .teaching import taught

KINDS = ((blocks.BASIC_BLOCK, BasicBlock), (blocks.BOTTLENECK, Bottleneck))


@pytest.fixture(autouse=True)
def stand_ins_are_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for cls in (BasicBlock, Bottleneck):
        monkeypatch.setitem(blocks.FINGERPRINTS, cls.__name__, (fingerprint(cls),))
    with taught(*KINDS):
        yield


def network(kind: Callable[..., nn.Module]) -> nn.Sequential:
    """With few units near the kinks of their ReLUs, where two right results differ by a jump."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), kind(4, 8, stride=2), kind(8, 8))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 3)
    return net


def images() -> Tensor:
    return torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_blocks_with_and_without_projection_compute_the_same_numbers(kind: type[nn.Module]) -> None:
    report = accelerate(network(kind), sample=[images()])
    assert [part.kind for part in report.replaced] == 2 * [f"residual.{kind.__name__.lower()}"] and not report.left


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_a_block_with_one_norm_in_evaluation_mode_runs_as_before(kind: type[nn.Module]) -> None:
    net = network(kind)
    accelerate(net)
    net.get_submodule("2.bn1").eval()
    original = deepcopy(net)
    original[2].__class__ = kind
    x = net[1](net[0](images()))
    assert torch.equal(net[2](x), original[2](x))
    assert all(torch.equal(a, b) for a, b in zip(net[2].buffers(), original[2].buffers(), strict=True))


class ViewedFlat(nn.Module):
    """What code of a contiguous map may do, with another order in memory it is an error."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_a_block_returns_what_code_behind_it_can_view(kind: type[nn.Module]) -> None:
    net = network(kind).append(ViewedFlat())
    report = accelerate(net, sample=[images()])
    assert len(report.replaced) == 2 and not report.left
    assert net(images()).shape == (2, 8 * 8 * 12)


def test_of_a_channels_last_map_a_block_returns_one() -> None:
    net = network(BasicBlock)
    accelerate(net)
    maps = net[0](images()).contiguous(memory_format=torch.channels_last)
    for block in (net[1], net[2]):
        maps = block(maps)
        assert maps.is_contiguous(memory_format=torch.channels_last)


class WrongWithoutProjection(blocks.FusedBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.01 if self.downsample is None else 1)


def test_of_blocks_that_are_compared_at_once_the_wrong_one_is_found() -> None:
    with taught((replace(blocks.BASIC_BLOCK, fused=WrongWithoutProjection), BasicBlock)):
        report = accelerate(network(BasicBlock), sample=[images()])
    assert [part.path for part in report.replaced] == ["model.1"]
    assert [part.path for part in report.left] == ["model.2"]


@pytest.mark.parametrize(
    "path, child, reason",
    [
        ("1.downsample", nn.Sequential(nn.AvgPool2d(2)), "downsample is no Sequential of a convolution and a norm"),
        ("1.conv2", nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), "a layer is no plain convolution"),
        ("1.conv2", nn.Conv2d(8, 8, 3, padding=1), "a layer is no plain convolution"),
        ("1.bn2", nn.BatchNorm2d(8, eps=1e-3), "its norms differ in eps or mode"),
        ("1.bn2", nn.GroupNorm(2, 8), "a layer is no plain convolution, batch norm"),
        ("1.relu", nn.GELU(), "batch norm or ReLU"),
    ],
)
def test_what_the_operator_does_not_compute_is_left_with_the_reason(path: str, child: nn.Module, reason: str) -> None:
    net = network(BasicBlock)
    net.set_submodule(path, child)
    (left,) = accelerate(net).left
    assert left.path == "model.1" and reason in left.reason
