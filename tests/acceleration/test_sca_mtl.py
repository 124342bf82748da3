from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqca import accelerate
from seqca.acceleration import LazyMap, blocks, fingerprint, joined_attention, mti_net, sca_mtl
from seqca.nn import cross_attention as exchange

from .blocks import BasicBlock
from .mti_net import DepthLoss
from .sca_mtl import (
    CHANNELS,
    ConvBNReLU,
    Exchange,
    GlobalContextAttentionBlock,
    HighResolutionHead,
    MTINet,
    MultiTaskDistillationModule,
    Scales,
    WindowAttention,
)
from .teaching import taught

KINDS = (
    (sca_mtl.DISTILLATION, MultiTaskDistillationModule),
    (sca_mtl.HEAD, HighResolutionHead),
    (sca_mtl.NETWORK, MTINet),
    (sca_mtl.WINDOW_ATTENTION, WindowAttention),
)


@pytest.fixture(autouse=True)
def stand_ins_are_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for cls in (GlobalContextAttentionBlock, ConvBNReLU):
        monkeypatch.setitem(joined_attention.FINGERPRINTS, cls.__name__, (fingerprint(cls),))
    monkeypatch.setitem(blocks.FINGERPRINTS, "BasicBlock", (fingerprint(BasicBlock),))
    with taught(*KINDS):
        yield


def network(kind: type[nn.Module], *arguments: Any) -> Any:
    """With few units near the kinks of their ReLUs, where two right results differ by a jump."""
    torch.manual_seed(0)
    net = kind(*arguments)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 3)
    return net


def set_eps(net: nn.Module, eps: float) -> None:
    """The lower bound of the denominators of all attention."""
    for module in net.modules():
        if isinstance(module, GlobalContextAttentionBlock):
            module.eps = eps


def images(height: int = 16, width: int = 24) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "tasks, heads",
    [
        (("semseg", "depth"), None),
        (("semseg", "depth", "edge"), ("depth", "edge")),
        (("semseg", "depth"), ("semseg",)),
    ],
)
def test_an_exchange_computes_the_same_numbers(tasks: tuple[str, ...], heads: tuple[str, ...] | None) -> None:
    net = network(Exchange, tasks, heads)
    if heads is not None:
        set_eps(net, 1e6)  # above all denominators
    report = accelerate(net, sample=[images()])
    assert [part.kind for part in report.replaced] == ["sca_mtl.cross_task"] and not report.left


def test_a_head_computes_the_same_numbers() -> None:
    net = network(Scales)
    set_eps(net.head.cross_scale_attention1, 1e6)
    report = accelerate(net, sample=[images()])
    assert [part.kind for part in report.replaced] == ["sca_mtl.head"] and not report.left


def test_a_network_makes_full_size_predictions_when_they_are_read() -> None:
    net = network(MTINet)
    original = deepcopy(net)
    accelerate(net, only="sca_mtl.network", outputs="lazy")
    found, expected = net(images(32, 48)), original(images(32, 48))
    assert list(found) == list(expected)
    assert list(found["deep_supervision"]) == list(expected["deep_supervision"])
    for scale, maps in expected["deep_supervision"].items():
        assert all(torch.equal(found["deep_supervision"][scale][name], x) for name, x in maps.items())
    for task in net.tasks:
        assert isinstance(found[task], LazyMap)
        assert torch.equal(found[task].full(), expected[task])


def test_every_part_of_a_network_is_found() -> None:
    report = accelerate(network(MTINet), outputs="lazy")
    kinds = [part.kind for part in report.replaced]
    assert kinds == ["sca_mtl.network", *4 * ["sca_mtl.cross_task"], *2 * ["sca_mtl.head"]]


class HalvedDepth(nn.Module):
    """Wrong for lazy maps."""

    def forward(self, out: Tensor | LazyMap, label: Tensor) -> Tensor:
        return super().forward(out[:], label) / (2 if isinstance(out, LazyMap) else 1)


def test_a_loss_that_is_wrong_on_predictions_of_a_network_is_taken_back_alone() -> None:
    def step(model: nn.Module, criterion: nn.Module, x: Tensor, label: Tensor) -> tuple[Any, Tensor]:
        output = model(x)
        return output, criterion(output["depth"], label)

    with taught((replace(mti_net.DEPTH, fused=HalvedDepth), DepthLoss)):
        report = accelerate(
            network(MTINet),
            DepthLoss(),
            sample=(images(32, 48), torch.zeros(2, 2, 32, 48)),
            step=step,
            skip=("sca_mtl.cross_task", "sca_mtl.head"),
            outputs="lazy",
        )
    assert [part.path for part in report.replaced] == ["model"]
    assert {part.path: part.reason for part in report.left}["criterion"].startswith("gives other numbers: loss")


def test_attention_inside_windows_is_left_with_the_reason() -> None:
    net = network(Exchange)
    net.window = WindowAttention(4, 49)
    assert [tuple(part) for part in accelerate(net).left] == [
        ("model.window", "WindowAttention", "attends inside windows, for which there is no fused operator")
    ]


@pytest.mark.parametrize("kind", [Exchange, Scales])
def test_state_dicts_have_the_same_keys(kind: type[nn.Module]) -> None:
    net = network(kind)
    before = list(net.state_dict())
    accelerate(net)
    assert list(net.state_dict()) == before


@pytest.mark.parametrize("kind", [Exchange, Scales])
def test_one_call_of_the_operator_serves_a_scale(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    net, calls = network(kind), []
    operator = exchange.cross_attention
    monkeypatch.setattr(
        exchange, "cross_attention", lambda *args, **kwargs: calls.append(args) or operator(*args, **kwargs)
    )
    accelerate(net)
    net(images())
    assert len(calls) == {Exchange: 1, Scales: 3}[kind]


@pytest.mark.parametrize(
    "kind, norm",
    [
        (Exchange, "distillation.cross_attention.depth.edge.key_project.1.bn"),
        (Exchange, "distillation.cross_attention.edge.depth.value_project.bn"),
        (Exchange, "distillation.dimensionality_reduction.bn2"),
        (Scales, "head.cross_scale_attention1.query_project.0.bn"),
        (Scales, "head.upsample30.1"),
    ],
)
def test_a_part_with_one_norm_in_evaluation_mode_runs_as_before(kind: type[nn.Module], norm: str) -> None:
    net = network(kind)
    original = deepcopy(net)
    accelerate(net)
    for each in (net, original):
        each.get_submodule(norm).eval()
    found, expected = net(images()), original(images())
    for x, y in zip(
        *([*each.values()] if isinstance(each, dict) else [each] for each in (found, expected)), strict=True
    ):
        assert torch.equal(x, y)
    assert all(torch.equal(x, y) for x, y in zip(net.buffers(), original.buffers(), strict=True))


def test_a_head_whose_first_map_is_not_the_finest_runs_as_before() -> None:
    head = network(Scales).head
    original = deepcopy(head)
    maps = [torch.randn(2, c, 4 + k, 4 + k) for k, c in enumerate(CHANNELS)]
    accelerate(nn.ModuleList([head]))
    assert torch.equal(head(maps), original(maps))


Change = Callable[[nn.Module], None]


def set_child(path: str, child: nn.Module) -> Change:
    return lambda net: net.set_submodule(path, child)


def set_attribute(path: str, name: str, value: Any) -> Change:
    return lambda net: setattr(net.get_submodule(path), name, value)


class Swish(ConvBNReLU):
    """Of another source."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.bn(self.conv(x)))


BLOCK, REDUCTION = "distillation.cross_attention.depth.edge", "distillation.dimensionality_reduction"
CHANGES: list[tuple[type[nn.Module], Change, str]] = [
    (
        Exchange,
        set_child(f"{BLOCK}.query_project.0", Swish(4, True)),
        "query_project[0] is a Swish that does",
    ),
    (Exchange, set_child(f"{BLOCK}.query_project.2", nn.Softplus(beta=2)), "query_project[2] is Softplus(beta=2"),
    (
        Exchange,
        set_child(f"{BLOCK}.key_project", nn.Sequential(ConvBNReLU(4, True))),
        "key_project is no Sequential",
    ),
    (Exchange, set_child(f"{BLOCK}.key_project.0", ConvBNReLU(4, False)), "key_project[0] has no activation"),
    (Exchange, set_child(f"{BLOCK}.key_project.1", ConvBNReLU(4, True)), "key_project[1] has an activation"),
    (Exchange, set_child(f"{BLOCK}.value_project.activation", nn.GELU()), "value_project.activation is a GELU"),
    (Exchange, set_attribute(f"{BLOCK}.key_project.1", "use_norm", False), "key_project[1] has no norm"),
    (Exchange, set_child(f"{BLOCK}.value_project.conv", nn.Conv2d(4, 4, 3, bias=False)), "no plain 1×1 convolution"),
    (Exchange, set_child(f"{BLOCK}.value_project.conv", nn.Conv2d(4, 4, 1)), "has a bias"),
    (Exchange, set_child(f"{BLOCK}.value_project.bn", nn.GroupNorm(2, 4)), "is a GroupNorm"),
    (Exchange, set_attribute(f"{BLOCK}.value_project.bn", "eps", 1e-3), "batch norms have several eps"),
    (Exchange, set_attribute(BLOCK, "eps", 1e-6), "blocks of attention have several eps"),
    (Exchange, set_child(BLOCK, nn.Identity()), "cross_attention.depth.edge is a Identity that does something else"),
    (Exchange, set_attribute("distillation", "tasks", ["depth"]), "every task of ['depth'] with each other one"),
    (Exchange, set_child(REDUCTION, nn.Identity()), "dimensionality_reduction is a Identity"),
    (Exchange, set_child(f"{REDUCTION}.conv1", nn.Conv2d(16, 4, 3, padding=1)), "reduction a layer is no plain convol"),
    (Exchange, set_attribute(REDUCTION, "downsample", None), "dimensionality_reduction has no downsample"),
    (Scales, set_child("head.cross_scale_attention1", nn.Identity()), "cross_scale_attention1 is a Identity"),
    (Scales, set_child("head.upsample32", nn.Identity()), "upsample32 is no Sequential of a convolution and a norm"),
    (Scales, set_child("head.upsample32.0", nn.Conv2d(10, 8, 1)), "a convolution of upsample32 has a bias"),
    (Scales, set_attribute("head.upsample32.1", "eps", 1e-3), "batch norms have several eps"),
    (Scales, set_child("head.last_layer.2", nn.GELU()), "last_layer[2] is a GELU"),
]


@pytest.mark.parametrize("kind, change, reason", CHANGES, ids=[reason for *_, reason in CHANGES])
def test_what_operators_do_not_compute_is_left_with_the_reason(
    kind: type[nn.Module], change: Change, reason: str
) -> None:
    net = network(kind)
    change(net)
    with pytest.raises(ValueError) as refusal:
        accelerate(net)
    assert reason in str(refusal.value)


def test_an_exchange_returns_contiguous_maps_of_contiguous_ones() -> None:
    net = network(Exchange)
    accelerate(net)
    assert all(x.is_contiguous() for x in net(images()).values())
