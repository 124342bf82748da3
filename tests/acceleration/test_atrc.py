"""ATRC's modules, replaced: the same numbers, and what is left says why."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqca.acceleration import LazyMap, Report, accelerate, atrc, atrc_losses, fingerprint, joined_attention

from . import atrc as theirs
from .losses import compare_lazy
from .teaching import taught

KINDS = (
    (atrc.ATTENTION, theirs.GlobalContextAttentionBlock),
    (atrc.EXCHANGE, theirs.ATRCModule),
    (atrc.HEAD, theirs.RelationalContextHead),
    (atrc.SEARCH_HEAD, theirs.RelationalContextSearchHead),
    (atrc.LAZY_HEAD, theirs.RelationalContextHead),
    (atrc.LAZY_SEARCH_HEAD, theirs.RelationalContextSearchHead),
    (atrc.LAZY_FCN_HEAD, theirs.FCNHead),
    (atrc.LOCAL, theirs.LocalContextAttentionBlock),
    (atrc.LABEL, theirs.LabelContextAttentionBlock),
    (atrc_losses.CROSS_ENTROPY, theirs.CrossEntropyLoss),
    (atrc_losses.BINARY, theirs.BalancedBinaryCrossEntropyLoss),
    (atrc_losses.L1, theirs.L1Loss),
    (atrc_losses.CLUSTERS, theirs.ClusterCrossEntropyLoss),
    (atrc_losses.BINS, theirs.BinningCrossEntropyLoss),
)
SIZE = (32, 32)
EXCHANGE = "model.head.atrc_module"


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


def test_blocks_of_all_pairs_and_auxiliary_predictions_give_the_same_numbers() -> None:
    tasks = ("semseg", "depth", "edge")
    genotype = {
        "semseg": {"semseg": 4, "depth": 1, "edge": 1},
        "depth": {"semseg": 1, "depth": 1, "edge": 2},
        "edge": {"semseg": 0, "depth": 0, "edge": 0},
    }
    model = network(theirs.RelationalContextHead, tasks, ("semseg",), genotype)
    report = accelerate(model, sample=(images(),))
    assert paths(report) == {"model.head", EXCHANGE}
    left = reasons(report)
    assert left.keys() == {f"{EXCHANGE}.cp_blocks.semseg.semseg", f"{EXCHANGE}.cp_blocks.depth.edge"}
    assert "softmax over its keys" in left[f"{EXCHANGE}.cp_blocks.semseg.semseg"]
    assert "attends to windows" in left[f"{EXCHANGE}.cp_blocks.depth.edge"]


def test_of_the_blocks_of_an_exchange_those_that_the_operator_computes_must_have_no_hooks() -> None:
    tasks, called = ("semseg", "depth"), []
    genotype = {"semseg": {"semseg": 4, "depth": 1}, "depth": {"semseg": 1, "depth": 0}}
    model = network(theirs.RelationalContextHead, tasks, tasks, genotype)
    blocks = model.head.atrc_module.cp_blocks
    blocks["semseg"]["semseg"].register_forward_hook(lambda *_: called.append("hook"))
    report = accelerate(model)
    assert EXCHANGE in paths(report)
    model(images())
    assert called == ["hook"]
    report.restore()
    blocks["depth"]["semseg"].register_forward_hook(lambda *_: None)
    assert "cp_blocks.depth.semseg has hooks" in reasons(accelerate(model))[EXCHANGE]


def test_a_block_by_itself_gives_the_same_numbers() -> None:
    model = network(theirs.RelationalContextHead, ("semseg", "depth"), ())
    report = accelerate(model, sample=(images(),), skip="atrc.exchange")
    assert paths(report) == {f"{EXCHANGE}.cp_blocks.semseg.depth", f"{EXCHANGE}.cp_blocks.depth.semseg"}


def test_a_module_whose_norms_are_not_in_one_mode_does_what_it_did() -> None:
    model = network(theirs.RelationalContextHead, ("semseg", "depth"), ())
    model.head.atrc_module.cp_blocks["depth"]["semseg"].eval()
    expected = model(images())["final"]["depth"]
    accelerate(model)
    torch.testing.assert_close(model(images())["final"]["depth"], expected)


def test_losses_give_the_same_numbers_from_lazy_predictions() -> None:
    tasks = ("depth",)
    model, criterion = network(theirs.RelationalContextHead, tasks, tasks), theirs.WeightedSumLoss(tasks)
    sample = images(), theirs.labels(SIZE, tasks)
    report = accelerate(model, criterion, sample=sample, outputs="lazy", skip="atrc.exchange")
    assert paths(report) == {"model.head", "criterion.loss_dict.depth.final", "criterion.loss_dict.depth.aux"}
    assert all(each.kept is not None and each.kept.after < each.kept.before for each in report.replaced)
    output = model(images())
    assert all(isinstance(x, LazyMap) for predictions in output.values() for x in predictions.values())


class DoubledLazyHead(nn.Module):
    """Wrong."""

    def forward(self, inp: list[Tensor], inp_shape: tuple[int, int], image: Tensor) -> dict:
        out = super().forward(inp, inp_shape, image)
        return {name: {task: 2 * x for task, x in predictions.items()} for name, predictions in out.items()}


@pytest.mark.parametrize("choice", [{"only": "atrc.head"}, {"skip": "atrc.predictions"}])
def test_of_two_replacements_of_a_head_the_one_that_is_wanted_is_taken(choice: dict[str, str]) -> None:
    model = network(theirs.RelationalContextHead, ("depth",), ("depth",))
    report = accelerate(model, outputs="lazy", **choice)
    assert [each.kind for each in report.replaced if each.path == "model.head"] == ["atrc.head"]


def test_where_lazy_predictions_are_wrong_the_other_replacement_of_the_head_is_taken() -> None:
    model = network(theirs.RelationalContextHead, ("depth",), ("depth",))
    wrong = replace(atrc.LAZY_HEAD, fused=DoubledLazyHead)
    with taught((wrong, theirs.RelationalContextHead)):
        report = accelerate(model, sample=(images(),), outputs="lazy")
    assert [each.kind for each in report.replaced if each.path == "model.head"] == ["atrc.head"]
    assert reasons(report)["model.head"].startswith("atrc.predictions gives other numbers")


def _without_ignored(auxiliary: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """Writes −∞ where the image is ignored."""
    for x in auxiliary.values():
        ignored = (nn.functional.interpolate(image, x.shape[2:]) == theirs.IGNORED).all(1, keepdim=True)
        x[ignored.expand_as(x)] = -torch.inf
    return {task: x.flatten(2).softmax(2).nan_to_num(0) for task, x in auxiliary.items()}


@pytest.mark.parametrize("ignored", [(slice(None), ..., slice(16, None)), (1,)], ids=["half of each", "one"])
def test_losses_of_images_that_are_ignored_in_part_are_what_they_were(
    ignored: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theirs.utils_heads, "spatial_normalize_pred", _without_ignored)
    model, criterion = network(theirs.RelationalContextHead), theirs.WeightedSumLoss()
    image, labels = images(), theirs.labels(SIZE)
    image[ignored] = theirs.IGNORED
    for label in labels.values():
        label[ignored] = label[..., 14:16] = theirs.IGNORED  # and where upsampling mixes −∞ in
    expected = criterion(model(image), labels)
    expected[0].backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    accelerate(model, criterion, outputs="lazy")
    found = criterion(model(image), labels)
    found[0].backward()
    torch.testing.assert_close(found, expected)
    finite = [name for name, x in gradients.items() if x.isfinite().all()]  # at the edge of −∞ theirs are NaN
    assert finite
    for name in finite:
        found_one = model.get_parameter(name).grad
        torch.testing.assert_close(found_one, gradients[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_searching_head_gives_the_same_numbers() -> None:
    tasks = ("depth",)
    model = network(theirs.RelationalContextSearchHead, tasks, gumbel_temp=1.0)
    report = accelerate(model, sample=(images(),))
    assert paths(report) == {"model.head"}
    assert "neither weight nor bias" in reasons(report)["model.head.atrc_module.blocks.depth"]
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
    model = network(theirs.RelationalContextHead, ("semseg", "depth"), ())
    assert "no auxiliary predictions" in reasons(accelerate(model))["model.head"]


def test_state_keys_stay() -> None:
    model, criterion = network(theirs.RelationalContextHead), theirs.WeightedSumLoss()
    before = list(model.state_dict()), list(criterion.state_dict())
    accelerate(model, criterion, outputs="lazy")
    assert (list(model.state_dict()), list(criterion.state_dict())) == before


@pytest.mark.parametrize("ignored", ["some pixels", "all pixels"])
@pytest.mark.parametrize("name", ["final", "aux"])
@pytest.mark.parametrize("task", theirs.TASKS)
def test_losses_of_lazy_predictions_are_what_they_were(task: str, name: str, ignored: str) -> None:
    channels = (theirs.FINAL if name == "final" else theirs.AUXILIARY)[task]
    label = theirs.labels(SIZE)[task]
    if ignored == "all pixels":
        label = torch.full_like(label, theirs.IGNORED)
    compare_lazy(theirs.losses()[task][name], channels, label)


def test_classes_in_balance_are_weighed_by_their_share() -> None:
    compare_lazy(theirs.CrossEntropyLoss(balanced=True), 2, theirs.labels(SIZE)["edge"])


@pytest.mark.parametrize("label", [2.0, theirs.IGNORED])
def test_labels_that_the_original_refuses_are_refused(label: float) -> None:
    loss = theirs.CrossEntropyLoss(balanced=True)
    accelerate(nn.Identity(), loss, outputs="lazy")
    with pytest.raises((AssertionError, RuntimeError)):
        loss(LazyMap(torch.zeros(1, 2, 8, 8), SIZE), torch.full((1, 1, *SIZE), float(label)))


def test_labels_between_0_and_1_are_probabilities_as_they_were() -> None:
    label = torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(2))
    compare_lazy(theirs.BalancedBinaryCrossEntropyLoss(0.7), 1, label, full=True)


def test_absolute_differences_of_several_channels_are_divided_by_pixels() -> None:
    compare_lazy(theirs.L1Loss(), 3, theirs.labels(SIZE)["normals"])


@pytest.mark.parametrize("weight", [0.95, 0.8, 0.5, 0.3, 0.05])
def test_the_weight_of_two_classes_is_found_in_its_rounded_form(weight: float) -> None:
    found = atrc_losses.positive_weight(torch.tensor([1 - weight, weight]))
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
    assert paths(report) == {EXCHANGE}


def without_global_context(module: Any) -> None:
    for sources in module.cp_blocks.values():
        for source in list(sources):
            sources[source] = theirs.LabelContextAttentionBlock(theirs.WIDTH, theirs.ATTENDED)


def out_of_order(module: Any) -> None:
    module.tasks = module.tasks[::-1]


def other_eps(module: Any) -> None:
    module.cp_blocks["depth"]["semseg"].eps = 1e-3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_global_context, "no blocks of global context"),
        (out_of_order, "not those of its genotype"),
        (other_eps, "several eps"),
    ],
)
def test_modules_with_other_blocks_are_left(change: Callable[[Any], None], reason: str) -> None:
    model = network(theirs.RelationalContextHead)
    change(model.head.atrc_module)
    assert reason in reasons(accelerate(model))[EXCHANGE]
