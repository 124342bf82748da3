"""A lazy map is a map for whoever reads it, and costs nothing before."""

import copy
import pickle
from dataclasses import replace
from operator import iadd, ifloordiv, imod, imul, ipow, isub, itruediv

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import seqca
from seqca.acceleration import LazyMap, Replacement
from seqca.acceleration.lazy import upsampled_lazily
from seqca.loss_type import Loss
from seqca.ops import upsampled_loss

from .heads import NETWORK, OBJECTIVE, Network, Objective, UpsamplingHead, head, sample
from .teaching import taught


@pytest.fixture
def coarse() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()


def full(coarse: torch.Tensor) -> torch.Tensor:
    return F.interpolate(coarse, (8, 11), mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: F.softmax(x, 1),
        lambda x: torch.cat([x, x], 1),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x[:, :2],
        lambda x: 2 - x / 3,
        lambda x: -x @ x.transpose(-1, -2),
        lambda x: torch.ones(2, 3, 8, 11) * x,
        lambda x: x.mT + x[0, 0, 0, 0],
        lambda x: torch.stack(list(x)),
        lambda x: F.l1_loss(x, target=torch.zeros(2, 3, 8, 11)),
    ],
)
def test_reading_gives_the_full_map_and_its_gradient(coarse, read) -> None:
    expected, found = read(full(coarse)), read(LazyMap(coarse, (8, 11)))
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad(x.square().sum(), coarse)[0] for x in (expected, found)]
    assert torch.equal(*gradients)


def test_shape_dtype_and_device_are_known_without_reading(coarse, monkeypatch) -> None:
    lazy = LazyMap(coarse, (8, 11))
    monkeypatch.setattr(F, "interpolate", None)
    assert lazy.shape == lazy.size() == (2, 3, 8, 11) and lazy.size(-1) == 11
    assert lazy.dtype == torch.float32 and lazy.device == coarse.device


def test_it_is_made_once_with_its_gradient_even_if_nobody_wants_one_then(coarse) -> None:
    lazy = LazyMap(coarse, (8, 11))
    with torch.no_grad():
        first = lazy.full()
    assert lazy.full() is first and first.requires_grad


def test_writing_into_it_is_noticed_and_kept(coarse) -> None:
    lazy = LazyMap(coarse.detach(), (8, 11))
    assert not lazy.changed and lazy.mean().isfinite() and not lazy.changed
    lazy.clamp_(min=3)
    assert lazy.changed and lazy.min() == 3


@pytest.mark.parametrize("operator", [iadd, isub, imul, itruediv, ifloordiv, imod, ipow])
def test_arithmetic_in_place_writes_into_the_map_that_others_hold(coarse, operator) -> None:
    held = LazyMap(coarse.detach(), (8, 11))
    expected = operator(full(coarse.detach()), 3)
    assert torch.equal(operator(held, 3), expected)
    assert held.changed and torch.equal(held.full(), expected)


def test_copies_and_pickles_are_lazy_maps(coarse) -> None:
    lazy = LazyMap(coarse.detach(), (8, 11))
    for other in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))):
        assert isinstance(other, LazyMap) and torch.equal(other.full(), lazy.full())


def test_a_replica_of_data_parallel_refuses(coarse) -> None:
    module = nn.Identity()
    assert isinstance(upsampled_lazily(module, coarse, (8, 11)), LazyMap)
    with pytest.raises(RuntimeError, match="outputs='full'"):
        upsampled_lazily(module._replicate_for_data_parallel(), coarse, (8, 11))


@pytest.fixture
def _lazy_kinds_are_known():
    with taught((NETWORK, Network), (OBJECTIVE, Objective), (head(), UpsamplingHead)):
        yield


@pytest.mark.usefixtures("_lazy_kinds_are_known")
def test_with_lazy_outputs_full_size_predictions_are_not_made_and_nothing_else_changes() -> None:
    net, criterion, (images, targets) = Network(), Objective(), sample()
    net.backbone[0].register_forward_hook(lambda *_: None)  # which the fused forward calls
    report = seqca.accelerate(net, criterion, sample=(images, targets), outputs="lazy")
    assert [each.path for each in report.replaced] == ["model", "model.heads.depth", "model.heads.normals", "criterion"]
    output = net(images)
    criterion(output, targets)["total"].backward()
    assert all(isinstance(x, LazyMap) and "_full" not in vars(x) for x in output.values())
    assert criterion(output, targets)["depth"].isclose((output["depth"] - targets["depth"]).abs().mean())


@pytest.mark.usefixtures("_lazy_kinds_are_known")
def test_full_outputs_are_the_default() -> None:
    net, criterion = Network(), Objective()
    report = seqca.accelerate(net, criterion)
    assert [each.path for each in report.replaced] == ["model.heads.depth", "model.heads.normals"] and not report.left


@pytest.mark.usefixtures("_lazy_kinds_are_known")
def test_lazy_outputs_are_refused_under_data_parallel() -> None:
    with pytest.raises(ValueError, match=r"^outputs: got 'lazy' for a model in nn\.DataParallel"):
        seqca.accelerate(nn.DataParallel(Network()), outputs="lazy")


class AbsoluteError(nn.Module):
    """A loss module."""

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.l1_loss(prediction, target)


class FusedAbsoluteError(nn.Module):
    def forward(self, prediction: torch.Tensor | LazyMap, target: torch.Tensor) -> torch.Tensor:
        if isinstance(prediction, LazyMap):
            return upsampled_loss(prediction.coarse, target, Loss("l1"))
        return super().forward(prediction, target)


class HalvedAbsoluteError(nn.Module):
    def forward(self, prediction: torch.Tensor | LazyMap, target: torch.Tensor) -> torch.Tensor:
        return super().forward(prediction, target) / (2 if isinstance(prediction, LazyMap) else 1)


class Supervision(nn.Module):
    """Deep supervision: upsamples a coarse prediction itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = AbsoluteError()

    def forward(self, output: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> torch.Tensor:
        coarse = F.avg_pool2d(output["depth"], 2)
        return self.loss(F.interpolate(coarse, targets["depth"].shape[-2:], mode="bilinear"), targets["depth"])


class FusedSupervision(nn.Module):
    def forward(self, output: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> torch.Tensor:
        coarse = F.avg_pool2d(output["depth"], 2)
        return self.loss(LazyMap(coarse, targets["depth"].shape[-2:]), targets["depth"])


SUPERVISION = Replacement("tests.supervision", "Supervision", ("?",), FusedSupervision, calls=("*",), hands_lazy=True)
ERROR = Replacement("tests.error", "AbsoluteError", ("?",), FusedAbsoluteError, lazy=True)


def test_a_loss_is_handed_lazy_maps_where_the_criterion_upsamples_and_compared_so() -> None:
    with taught((SUPERVISION, Supervision), (ERROR, AbsoluteError)):
        report = seqca.accelerate(Network(), Supervision(), sample=sample())
    assert [each.path for each in report.replaced] == ["criterion", "criterion.loss"]
    assert report.replaced[1].operators == ("upsampled_loss (aten)",)
    assert report.replaced[1].own_error is None and report.replaced[1].error is not None  # it has no parameters


def test_a_loss_that_is_wrong_on_lazy_maps_is_taken_back_alone() -> None:
    wrong = replace(ERROR, fused=HalvedAbsoluteError)
    with taught((SUPERVISION, Supervision), (wrong, AbsoluteError)):
        report = seqca.accelerate(Network(), Supervision(), sample=sample())
    assert [each.path for each in report.replaced] == ["criterion"]
    assert [each.path for each in report.left] == ["criterion.loss"]
