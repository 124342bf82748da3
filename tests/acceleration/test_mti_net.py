"""MTI-Net's modules, replaced: the same numbers, and what is left says why."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqca.acceleration import LazyMap, Report, accelerate, mti_net

from . import mti_net as theirs
from .teaching import taught

KINDS = (
    (mti_net.FUSE, theirs.HighResolutionFuse),
    (mti_net.HEAD, theirs.HighResolutionHead),
    (mti_net.MTI_NET_LOSS, theirs.MTINetLoss),
    (mti_net.PAD_NET_LOSS, theirs.PADNetLoss),
    (mti_net.CLASSES, theirs.SoftMaxwithLoss),
    (mti_net.DEPTH, theirs.DepthLoss),
    (mti_net.BINARY, theirs.BalancedCrossEntropyLoss),
    (mti_net.NORMALS, theirs.NormalsLoss),
    (mti_net.DISTILLATION, theirs.MultiTaskDistillationModule),
    (mti_net.MTI_NET, theirs.MTINet),
    (mti_net.PAD_NET, theirs.PADNet),
    (mti_net.MULTI_TASK, theirs.MultiTaskModel),
    (mti_net.SINGLE_TASK, theirs.SingleTaskModel),
)
SIZE = (32, 32)
HEADS = {f"model.heads.{task}" for task in theirs.TASKS}
LOSSES = {f"criterion.loss_ft.{task}" for task in ("semseg", "depth", "edge")}


@pytest.fixture(autouse=True)
def recognised() -> Iterator[None]:
    with taught(*KINDS):
        yield


def images() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def seeded(make: type[nn.Module], *arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return make(*arguments)


def paths(report: Report) -> set[str]:
    return {each.path for each in report.replaced}


def reasons(report: Report) -> dict[str, str]:
    return {each.path: each.reason for each in report.left}


def test_the_network_and_its_deep_supervision_give_the_same_numbers() -> None:
    model, criterion = seeded(theirs.MTINet), theirs.MTINetLoss()
    report = accelerate(model, criterion, sample=(images(), theirs.labels(SIZE)))
    assert paths(report) == {*HEADS, "criterion", *LOSSES}
    distillation = {f"model.distillation_scale_{k}" for k in range(4)}
    assert reasons(report).keys() == {*distillation, "criterion.loss_ft.normals"}
    assert all("by a sigmoid of its own" in reasons(report)[path] for path in distillation)
    assert "norm + 1e-12" in reasons(report)["criterion.loss_ft.normals"]
    assert all(each.kept is not None and each.kept.after < each.kept.before for each in report.replaced)


@pytest.mark.parametrize(
    ("network", "scheme"), [(theirs.MTINet, theirs.MTINetLoss), (theirs.PADNet, theirs.PADNetLoss)]
)
def test_lazy_predictions_give_the_same_numbers(network: type[nn.Module], scheme: type[nn.Module]) -> None:
    tasks = ("depth", "edge")
    model, criterion = seeded(network, tasks), scheme(tasks)
    report = accelerate(model, criterion, sample=(images(), theirs.labels(SIZE, tasks)), outputs="lazy")
    losses = {f"criterion.loss_ft.{task}" for task in tasks}
    assert {"model", "criterion", *losses} <= paths(report)
    assert isinstance(model(images())["depth"], LazyMap)


def test_the_baselines_give_the_same_numbers() -> None:
    several, single = seeded(theirs.MultiTaskModel), seeded(theirs.SingleTaskModel, "depth")
    assert paths(accelerate(several, sample=(images(),), outputs="lazy")) == {"model", "model.backbone.1"}
    assert paths(accelerate(single, sample=(images(),), outputs="lazy")) == {"model", "model.decoder"}
    assert isinstance(several(images())["semseg"], LazyMap)
    assert isinstance(single(images())["depth"], LazyMap)


def test_losses_alone_are_replaced_only_where_somebody_hands_them_lazy_maps() -> None:
    with pytest.raises(ValueError, match="got none of the parts"):
        accelerate(seeded(theirs.PADNet), theirs.losses())


@pytest.mark.parametrize(
    "choice", [{"only": "mti_net.loss"}, {"only": "criterion", "skip": "mti_net.deep_supervision"}]
)
def test_losses_behind_deep_supervision_are_said_to_need_it(choice: dict[str, str]) -> None:
    needed = 'mti_net.loss needs mti_net.deep_supervision, which makes its maps lazy, or outputs="lazy"'
    with pytest.raises(ValueError, match="got none of the parts") as error:
        accelerate(seeded(theirs.MTINet), theirs.MTINetLoss(), **choice)
    assert needed in str(error.value).splitlines()[1]


def test_a_network_is_said_to_need_lazy_outputs_where_it_alone_is_wanted() -> None:
    with pytest.raises(ValueError, match=r"\n  model \(MTINet\): mti_net\.predictions needs outputs=\"lazy\"\n"):
        accelerate(seeded(theirs.MTINet), only="mti_net.predictions")


def test_state_keys_stay() -> None:
    model, criterion = seeded(theirs.MTINet), theirs.MTINetLoss()
    before = list(model.state_dict()), list(criterion.state_dict())
    accelerate(model, criterion)
    assert (list(model.state_dict()), list(criterion.state_dict())) == before


@pytest.mark.parametrize(
    ("task", "value"), [("semseg", math.nan), ("depth", math.nan), ("edge", None), ("normals", 0.0)]
)
def test_where_all_pixels_are_ignored_losses_are_what_they_were(task: str, value: float | None) -> None:
    coarse = torch.randn(1, theirs.OUTPUTS[task], 8, 8, generator=torch.Generator().manual_seed(0))
    label = torch.full((1, 1 if task == "semseg" else theirs.OUTPUTS[task], *SIZE), theirs.IGNORED, dtype=torch.float32)
    before, after = loss_and_gradient(theirs.losses()[task], coarse, label, lazy=False)
    replaced = theirs.PADNetLoss([task])
    accelerate(nn.Identity(), replaced)
    loss, gradient = loss_and_gradient(replaced.loss_ft[task], coarse, label, lazy=True)
    torch.testing.assert_close(loss, before, equal_nan=True)
    torch.testing.assert_close(gradient, after)
    if value is not None:
        torch.testing.assert_close(loss.item(), value, equal_nan=True)


def loss_and_gradient(loss: nn.Module, coarse: Tensor, label: Tensor, lazy: bool) -> tuple[Tensor, Tensor]:
    coarse = coarse.clone().requires_grad_()
    value = loss(LazyMap(coarse, SIZE) if lazy else theirs.upsampled(coarse, SIZE), label)
    value.backward()
    assert coarse.grad is not None
    return value.detach(), coarse.grad


def test_a_prediction_that_was_written_into_is_what_its_loss_is_of() -> None:
    criterion = theirs.PADNetLoss(["depth"])
    accelerate(nn.Identity(), criterion)
    coarse, label = torch.randn(1, 1, 8, 8), torch.ones(1, 1, *SIZE)
    prediction = LazyMap(coarse, SIZE)
    prediction.clamp_(min=0)
    expected = nn.functional.l1_loss(theirs.upsampled(coarse, SIZE).clamp(min=0), label)
    torch.testing.assert_close(criterion.loss_ft["depth"](prediction, label), expected)


def three_by_three(module: Any) -> None:
    module.last_layer[0] = nn.Conv2d(28, 28, 3, padding=1)


def instance_norm(module: Any) -> None:
    module.last_layer[1] = nn.InstanceNorm2d(28)


def fewer_layers(module: Any) -> None:
    module.last_layer = module.last_layer[:2]


@pytest.mark.parametrize(
    ("module", "change"),
    [
        (theirs.HighResolutionHead(theirs.CHANNELS, 5), three_by_three),
        (theirs.HighResolutionHead(theirs.CHANNELS, 5), instance_norm),
        (theirs.HighResolutionHead(theirs.CHANNELS, 5), fewer_layers),
        (theirs.HighResolutionFuse(theirs.CHANNELS), three_by_three),
        (theirs.HighResolutionFuse(theirs.CHANNELS), fewer_layers),
    ],
)
def test_other_layers_are_left(module: nn.Module, change: Callable[[Any], None]) -> None:
    module = copy.deepcopy(module)
    change(module)
    with pytest.raises(ValueError, match="last_layer"):
        accelerate(nn.ModuleList([module]))


def weighted(loss: Any) -> None:
    loss.criterion = nn.NLLLoss(weight=torch.ones(5), ignore_index=theirs.IGNORED)


def over_pixels(loss: Any) -> None:
    loss.softmax = nn.LogSoftmax(dim=2)


def summed(loss: Any) -> None:
    loss.loss = nn.L1Loss(reduction="sum")


def not_averaged(loss: Any) -> None:
    loss.size_average = False


def heavy(loss: Any) -> None:
    loss.pos_weight = 2.0


@pytest.mark.parametrize(
    ("task", "change", "reason"),
    [
        ("semseg", weighted, "weighs classes"),
        ("semseg", over_pixels, "over channels"),
        ("depth", summed, "only the mean of L1Loss"),
        ("edge", not_averaged, "only size_average=True"),
        ("edge", heavy, "pos_weight is 2"),
    ],
)
def test_losses_with_other_settings_are_left(task: str, change: Callable[[Any], None], reason: str) -> None:
    criterion = theirs.MTINetLoss()
    change(criterion.loss_ft[task])
    assert reason in reasons(accelerate(seeded(theirs.MTINet), criterion))[f"criterion.loss_ft.{task}"]
