"""ATRC's modules, replaced: the same numbers, and what is left says why."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqca.acceleration import LazyMap, Report, accelerate, atrc, fingerprint, joined_attention

from . import atrc as theirs
from .teaching import taught

KINDS = (
    (atrc.ATTENTION, theirs.GlobalContextAttentionBlock),
    (atrc.HEAD, theirs.RelationalContextHead),
    (atrc.SEARCH_HEAD, theirs.RelationalContextSearchHead),
    (atrc.LAZY_HEAD, theirs.RelationalContextHead),
    (atrc.LAZY_SEARCH_HEAD, theirs.RelationalContextSearchHead),
    (atrc.LAZY_FCN_HEAD, theirs.FCNHead),
    (atrc.CROSS_ENTROPY, theirs.CrossEntropyLoss),
    (atrc.BINARY, theirs.BalancedBinaryCrossEntropyLoss),
    (atrc.L1, theirs.L1Loss),
    (atrc.CLUSTERS, theirs.ClusterCrossEntropyLoss),
    (atrc.BINS, theirs.BinningCrossEntropyLoss),
)
SIZE = (32, 32)
BLOCKS = {f"model.head.atrc_module.blocks.{t}.{s}" for t in theirs.TASKS for s in theirs.TASKS}


@pytest.fixture(autouse=True)
def recognised(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in joined_attention.FINGERPRINTS:
        known = (fingerprint(getattr(theirs, name)),)
        monkeypatch.setitem(joined_attention.FINGERPRINTS, name, known)
    with taught(*KINDS):
        yield


def images() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def network(head: Callable[..., nn.Module], *arguments: Any, **search: Any) -> nn.Module:
    torch.manual_seed(0)
    return theirs.Network(head(*arguments), **search)


def paths(report: Report) -> set[str]:
    return {each.path for each in report.replaced}


def reasons(report: Report) -> dict[str, str]:
    return {each.path: each.reason for each in report.left}


def test_attention_and_auxiliary_predictions_give_the_same_numbers() -> None:
    tasks = ("semseg", "depth")
    model, criterion = network(theirs.RelationalContextHead, tasks, tasks), theirs.WeightedSumLoss(tasks)
    report = accelerate(model, criterion, sample=(images(), theirs.labels(SIZE, tasks)))
    blocks = {f"model.head.atrc_module.blocks.{target}.{source}" for target in tasks for source in tasks}
    assert paths(report) == {"model.head", *blocks}
    assert not report.left


def test_losses_give_the_same_numbers_from_lazy_predictions() -> None:
    tasks = ("depth",)
    model, criterion = network(theirs.RelationalContextHead, tasks, tasks), theirs.WeightedSumLoss(tasks)
    sample = images(), theirs.labels(SIZE, tasks)
    report = accelerate(model, criterion, sample=sample, outputs="lazy", skip="atrc.attention")
    assert paths(report) == {"model.head", "criterion.loss_dict.depth.final", "criterion.loss_dict.depth.aux"}
    assert all(each.kept is not None and each.kept.after < each.kept.before for each in report.replaced)
    output = model(images())
    assert all(isinstance(x, LazyMap) for predictions in output.values() for x in predictions.values())


def test_the_searching_head_gives_the_same_numbers() -> None:
    tasks = ("depth",)
    model = network(theirs.RelationalContextSearchHead, tasks, tasks, False, gumbel_temp=1.0)
    report = accelerate(model, sample=(images(),))
    assert paths(report) == {"model.head"}
    assert "neither weight nor bias" in reasons(report)["model.head.atrc_module.blocks.depth.depth"]
    report.restore()
    assert paths(accelerate(model, sample=(images(),), outputs="lazy")) == {"model.head"}


def test_the_baseline_hands_on_lazy_predictions() -> None:
    model = network(theirs.FCNHead)
    assert paths(accelerate(model, sample=(images(),), outputs="lazy")) == {"model.head"}
    assert isinstance(model(images())["final"]["depth"], LazyMap)


def test_auxiliary_predictions_send_no_gradient_into_the_maps() -> None:
    model = network(theirs.RelationalContextHead)
    accelerate(model)
    sum(x.sum() for x in model(images())["aux"].values()).backward()
    assert model.layers[0].weight.grad is None
    assert model.head.aux_conv["depth"].conv.weight.grad is not None


def test_a_head_without_auxiliary_predictions_is_left() -> None:
    model = network(theirs.RelationalContextHead, ("depth",), ())
    assert "no auxiliary predictions" in reasons(accelerate(model))["model.head"]


def test_state_keys_stay() -> None:
    model, criterion = network(theirs.RelationalContextHead), theirs.WeightedSumLoss()
    before = list(model.state_dict()), list(criterion.state_dict())
    accelerate(model, criterion, outputs="lazy")
    assert (list(model.state_dict()), list(criterion.state_dict())) == before


def compared(loss: nn.Module, channels: int, label: Tensor) -> None:
    """A loss of a lazy map, and its gradient, against those of the upsampled one."""
    values, gradients = [], []
    for lazy in (False, True):
        coarse = torch.randn(len(label), channels, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        value = loss(LazyMap(coarse, SIZE) if lazy else theirs.upsampled(coarse, SIZE), label)
        (gradient,) = torch.autograd.grad(value, coarse)
        values.append(value.detach())
        gradients.append(gradient)
        if not lazy:
            accelerate(nn.Identity(), loss, outputs="lazy")
    torch.testing.assert_close(values[1], values[0], equal_nan=True)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("ignored", ["some pixels", "all pixels"])
@pytest.mark.parametrize("name", ["final", "aux"])
@pytest.mark.parametrize("task", theirs.TASKS)
def test_losses_of_lazy_predictions_are_what_they_were(task: str, name: str, ignored: str) -> None:
    channels = (theirs.FINAL if name == "final" else theirs.AUXILIARY)[task]
    label = theirs.labels(SIZE)[task]
    if ignored == "all pixels":
        label = torch.full_like(label, theirs.IGNORED)
    compared(theirs.losses()[task][name], channels, label)


def test_classes_in_balance_are_weighed_by_their_share() -> None:
    compared(theirs.CrossEntropyLoss(balanced=True), 2, theirs.labels(SIZE)["edge"])


@pytest.mark.parametrize("label", [2.0, theirs.IGNORED])
def test_labels_that_the_original_refuses_are_refused(label: float) -> None:
    loss = theirs.CrossEntropyLoss(balanced=True)
    accelerate(nn.Identity(), loss, outputs="lazy")
    with pytest.raises((AssertionError, RuntimeError)):
        loss(LazyMap(torch.zeros(1, 2, 8, 8), SIZE), torch.full((1, 1, *SIZE), float(label)))


def test_labels_between_0_and_1_are_probabilities_as_they_were() -> None:
    label = torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(2))
    compared(theirs.BalancedBinaryCrossEntropyLoss(0.7), 1, label)


def test_absolute_differences_of_several_channels_are_divided_by_pixels() -> None:
    compared(theirs.L1Loss(), 3, theirs.labels(SIZE)["normals"])


@pytest.mark.parametrize("weight", [0.95, 0.8, 0.5, 0.3, 0.05])
def test_the_weight_of_two_classes_is_found_in_its_rounded_form(weight: float) -> None:
    found = atrc.positive_weight(torch.tensor([1 - weight, weight]))
    assert found == pytest.approx(weight, rel=1e-7)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (theirs.CrossEntropyLoss(torch.tensor([0.3, 0.3])), "class_weight is"),
        (theirs.CrossEntropyLoss(torch.ones(5)), "class_weight is"),
        (theirs.BalancedBinaryCrossEntropyLoss(), "pos_weight is None"),
        (theirs.BalancedBinaryCrossEntropyLoss(1.0), "pos_weight is 1.0"),
    ],
)
def test_losses_with_other_weights_are_left(loss: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        accelerate(nn.Identity(), loss, outputs="lazy")


def other_kernel(head: Any) -> None:
    head.aux_logits["depth"] = nn.Conv2d(18, 7, 3, padding=1)


def other_norm(head: Any) -> None:
    head.aux_conv["depth"].bn = nn.InstanceNorm2d(18)


def other_activation(head: Any) -> None:
    head.aux_conv["depth"].activation = nn.GELU()


def other_layer(head: Any) -> None:
    head.aux_conv["depth"] = nn.Sequential(nn.Conv2d(18, 18, 1), nn.BatchNorm2d(18), nn.ReLU())


def one_scale(head: Any) -> None:
    head.in_index = 0


@pytest.mark.parametrize("change", [other_kernel, other_norm, other_activation, other_layer, one_scale])
def test_heads_with_other_layers_are_left(change: Callable[[Any], None]) -> None:
    model = network(theirs.RelationalContextHead)
    change(model.head)
    report = accelerate(model)
    assert "model.head" in reasons(report)
    assert paths(report) == BLOCKS
