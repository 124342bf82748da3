"""What `accelerate` replaces, what it leaves, and that it does not lie."""

import copy
import re
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seqca
from seqca.acceleration import Replacement, Report, observation
from seqca.acceleration.comparison import Outcome
from seqca.acceleration.finding import Left, grouped
from seqca.acceleration.observation import Normalised, fewest_normalised
from seqca.acceleration.report import Error
from seqca.acceleration.trial import Subject, Trial, default_step
from seqca.nn.cross_scale import aggregate

from .heads import (
    NETWORK,
    OBJECTIVE,
    ForkedHead,
    HeadOfAnotherEpsilon,
    HeadThatRaises,
    HeadThatRaisesInFloat32,
    HeadThatTrainsAlways,
    HeadWithoutGradient,
    HeadWithoutUpdates,
    HeadWrongInFloat32,
    Network,
    Objective,
    UpsamplingHead,
    head,
    sample,
)
from .teaching import taught

HEADS = ["model.heads.depth", "model.heads.normals"]


@pytest.fixture(autouse=True)
def _heads_are_known() -> Iterator[None]:
    with taught((head(), UpsamplingHead)):
        yield


def replaced(report: Report) -> list[str]:
    return [each.path for each in report.replaced]


def reasons(report: Report) -> dict[str, str]:
    return {each.path: each.reason for each in report.left}


def test_heads_are_replaced_and_compared() -> None:
    report = seqca.accelerate(Network(), Objective(), sample=sample())
    assert replaced(report) == HEADS and not report.left
    assert report.compared_in == ("float32", "float64")
    for part in report.replaced:
        assert part.operators == ("aggregation_head (aten)",)
        assert part.error is not None and 0 < part.error.share <= 1


def test_of_a_part_the_largest_error_of_its_own_is_told_and_that_of_all_results_with_its_kind() -> None:
    for only in (HEADS, HEADS[0]):
        report = seqca.accelerate(Network(), Objective(), sample=sample(), only=only)
        for part in report.replaced:
            own, error = part.own_error, part.error
            assert own is not None and own.what.startswith((f"gradient of {part.path}.", f"{part.path}."))
            assert error is not None and error == report.error and error >= own
        largest = max(part.own_error for part in report.replaced if part.own_error is not None)
        assert f"  {largest.share:.2g}\n" in str(report) and str(report).count(f"tests.head  {error}\n") == 1


def test_an_error_that_a_part_causes_before_it_is_not_its_own_but_among_all() -> None:
    own, before = Error(0.1, "gradient of model.a.weight"), Error(0.5, "gradient of model.before.weight")
    outcome = Outcome(None, [own, Error(0.3, "gradient of model.ab.weight"), before])
    assert outcome.largest_of("model.a") == own and outcome.largest_of("model.b") is None
    assert outcome.largest == before


@pytest.mark.parametrize("lazy", [False, True])
def test_as_many_steps_are_made_as_the_page_says(lazy: bool) -> None:
    made: Counter[tuple[bool, torch.dtype]] = Counter()

    def step(model: nn.Module, criterion: nn.Module, images: Tensor, targets: dict[str, Tensor]) -> tuple:
        made[model.training, images.dtype] += 1
        return default_step(model, criterion, images, targets)

    outputs = "lazy" if lazy else "full"
    with taught((NETWORK, Network), (OBJECTIVE, Objective)):
        report = seqca.accelerate(Network(), Objective(), sample=sample(), step=step, outputs=outputs)
    kinds = len({part.kind for part in report.replaced})
    assert kinds == (3 if lazy else 1)
    for trains in (False, True):
        single, double = made[trains, torch.float32], made[trains, torch.float64]
        assert double == 13 + kinds + (1 if kinds > 1 else 0)
        assert single + double == 25 + 4 * kinds + (4 if kinds > 1 else 0) + (2 if trains else 0)


def test_less_is_kept_for_backward_in_the_parts_and_in_the_whole_step() -> None:
    report = seqca.accelerate(Network(), Objective(), sample=sample())
    kept = [report.kept, *(part.kept for part in report.replaced)]
    assert all(each is not None and 0 < each.after < each.before for each in kept)


def test_as_much_is_kept_for_backward_where_gradients_are_off_around_the_call() -> None:
    expected = seqca.accelerate(Network(), Objective(), sample=sample())
    with torch.no_grad():
        found = seqca.accelerate(Network(), Objective(), sample=sample())
    assert found.kept is not None and found.kept.before > 0 and found.kept == expected.kept


def test_kept_bytes_are_those_of_every_storage_once_without_parameters() -> None:
    (part,) = seqca.accelerate(Network(), Objective(), sample=sample(), only=HEADS[0]).replaced
    pixels, channels, number = 2 * 12 * 16, 6 + 8, 4
    assert part.kept == (
        number * (3 * pixels * channels + 2 * channels),  # concatenated, convolved, rectified; mean and 1/σ
        # The maps; statistics, some in float64, and of these the triangle of the covariance.
        number * (pixels * 6 + pixels // 4 * 8 + 2 * channels + 2 * channels + channels * (channels + 1)),
    )


def test_the_model_goes_on_with_the_same_numbers() -> None:
    images, _ = sample()
    old, new = Network().eval(), Network().eval()
    seqca.accelerate(new, sample=(images,))
    for task, expected in old(images).items():
        torch.testing.assert_close(new(images)[task], expected)


def test_under_autocast_predictions_have_the_dtype_that_they_had() -> None:
    images, _ = sample()
    old, new = Network().eval(), Network().eval()
    seqca.accelerate(new)
    with torch.autocast("cpu", torch.bfloat16):
        for task, expected in old(images).items():
            found = new(images)[task]
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_a_second_derivative_is_refused() -> None:
    images, targets = sample()
    net = Network()
    seqca.accelerate(net)
    total = Objective()(net(images), targets)["total"]
    (gradient,) = torch.autograd.grad(total, net.backbone[0][0].weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        gradient.square().sum().backward()


def test_a_second_derivative_is_that_of_the_model_with_the_reference_backend() -> None:
    images, targets = sample()
    penalties = []
    for fused in (False, True):
        net = Network().eval()
        if fused:
            seqca.accelerate(net)
        with seqca.use_backend("reference"):
            total = Objective()(net(images), targets)["total"]
            weight = net.backbone[0][0].weight
            (gradient,) = torch.autograd.grad(total, weight, create_graph=True)
            penalties.append(torch.autograd.grad(gradient.square().sum(), weight)[0])
    torch.testing.assert_close(penalties[1], penalties[0])


def test_parameters_buffers_keys_and_hooks_stay_the_same_objects() -> None:
    net, seen = Network(), []
    net.heads["depth"].register_forward_hook(lambda *_: seen.append("hook"))
    before = dict(net.named_parameters()) | dict(net.named_buffers())
    modules, keys = list(net.modules()), list(net.state_dict())
    seqca.accelerate(net)
    after = dict(net.named_parameters()) | dict(net.named_buffers())
    assert before.keys() == after.keys() and all(before[key] is after[key] for key in before)
    assert all(a is b for a, b in zip(modules, net.modules(), strict=True)) and keys == list(net.state_dict())
    net(sample()[0])
    assert seen == ["hook"]


def test_a_comparison_leaves_no_trace_on_the_model() -> None:
    net, (images, targets) = Network(), sample()
    state, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    seqca.accelerate(net, Objective(), sample=(images, targets))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(random, torch.get_rng_state()) and net.training and net.dropout.training


def test_nothing_of_torch_or_of_the_other_package_is_touched() -> None:
    before = [dict(vars(each)) for each in (F, torch, nn.Module, UpsamplingHead, Network)]
    net = Network()
    seqca.accelerate(net, Objective(), sample=sample())
    net(sample()[0])
    assert before == [dict(vars(each)) for each in (F, torch, nn.Module, UpsamplingHead, Network)]


def test_a_report_restores_the_model() -> None:
    net = Network()
    report = seqca.accelerate(net)
    assert type(net.heads["depth"]) is not UpsamplingHead
    report.restore()
    assert all(type(each) is UpsamplingHead for each in net.heads.values())
    assert replaced(seqca.accelerate(net)) == HEADS


def test_a_second_report_restores_what_the_second_call_replaced() -> None:
    net = Network()
    seqca.accelerate(net, only=HEADS[0])
    seqca.accelerate(net).restore()
    assert type(net.heads["depth"]) is not UpsamplingHead and type(net.heads["normals"]) is UpsamplingHead


def test_a_fork_that_does_something_else_is_left_and_named() -> None:
    net = Network()
    net.heads["depth"] = ForkedHead(1)
    report = seqca.accelerate(net)
    assert replaced(report) == HEADS[1:]
    assert "something else" in reasons(report)[HEADS[0]]


def test_a_class_whose_forward_was_wrapped_is_left_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UpsamplingHead, "forward", torch.inference_mode()(UpsamplingHead.forward))
    with pytest.raises(ValueError, match=r"model\.heads\.depth .* got a method in a wrapper"):
        seqca.accelerate(Network())


class Unfusable(nn.Module):
    """A class that is known and never replaced."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sort().values


class OfTheSameName(nn.Module):
    """Has nothing to do with it."""

    def forward(self, x: Tensor) -> Tensor:
        return x


OfTheSameName.__name__ = "Unfusable"


def test_a_kind_that_is_never_replaced_is_named_with_the_reason_and_others_of_its_name_are_not() -> None:
    net = Network()
    net.sorting, net.other = Unfusable(), OfTheSameName()
    with taught((Replacement("tests.sorting", "Unfusable", ("?",), None, lambda _: "sorts"), Unfusable)):
        assert reasons(seqca.accelerate(net)) == {"model.sorting": "sorts"}


def test_a_module_with_another_setting_is_left_with_the_reason() -> None:
    net = Network()
    net.heads["depth"].layers[0] = nn.Conv2d(14, 14, 3, padding=1)
    assert "no plain 1×1 convolution" in reasons(seqca.accelerate(net))[HEADS[0]]


def test_a_module_whose_children_have_hooks_is_left_and_the_child_named() -> None:
    net = Network()
    net.heads["depth"].layers[0].register_forward_hook(lambda *_: None)
    net.heads["normals"].layers[3].register_full_backward_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"layers\.0 has hooks") as error:
        seqca.accelerate(net)
    assert "layers.3 has hooks" in str(error.value)


def test_a_forward_that_was_set_on_an_instance_is_kept() -> None:
    net = Network()
    net.heads["depth"].forward = lambda maps: maps[0][:, :1]
    net.heads["normals"].layers[0].forward = lambda x: x
    with pytest.raises(ValueError, match=r"heads.depth .*: has a forward of its own") as error:
        seqca.accelerate(net)
    assert "layers.0 has a forward of its own" in str(error.value)


def test_only_and_skip_choose_by_path_and_by_kind() -> None:
    assert replaced(seqca.accelerate(Network(), only="model.heads.depth")) == HEADS[:1]
    assert replaced(seqca.accelerate(Network(), only=["tests"])) == HEADS
    assert replaced(seqca.accelerate(Network(), skip=["model.heads.normals"])) == HEADS[:1]
    report = seqca.accelerate(Network(), only="model.heads", skip="model.heads.depth")
    assert replaced(report) == HEADS[1:] and reasons(report) == {HEADS[0]: "named by `skip`"}


def test_a_part_whose_child_is_skipped_is_left_unless_the_fused_forward_calls_that_child() -> None:
    report = seqca.accelerate(Network(), skip="model.heads.depth.layers.0")
    assert replaced(report) == HEADS[1:] and "layers.0 is named by `skip`" in reasons(report)[HEADS[0]]
    with taught((NETWORK, Network)):
        report = seqca.accelerate(Network(), outputs="lazy", skip="model.heads.depth")
    assert replaced(report) == ["model", HEADS[1]]


@pytest.mark.parametrize("argument", ["only", "skip"])
def test_a_name_that_means_nothing_is_an_error(argument: str) -> None:
    for name in ("unknown", ""):
        expected = r"expected the path of a module, such as '[\w.]+', or a kind that the model has, tests\.head$"
        with pytest.raises(ValueError, match=rf"^{argument}: got '{name}', {expected}"):
            seqca.accelerate(Network(), **{argument: name})


@pytest.mark.parametrize(("name", "near"), [("model.heads.deth", "model.heads.depth"), ("test.head", "tests.head")])
def test_for_a_name_that_means_nothing_the_nearest_ones_are_suggested(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"^only: got '{name}', expected a path or a kind, perhaps '{near}'"):
        seqca.accelerate(Network(), only=name)


def test_nothing_replaced_is_an_error_with_the_reasons() -> None:
    with pytest.raises(
        ValueError, match=r"^model: got none .*\n  model\.heads\.depth and 1 more \(UpsamplingHead\): named by"
    ):
        seqca.accelerate(Network(), skip="tests.head")
    with pytest.raises(ValueError, match=r"^model: got none of the parts"):
        seqca.accelerate(nn.Conv2d(3, 3, 1))


def test_of_the_reasons_that_nothing_is_replaced_the_cause_stands_before_what_was_not_chosen() -> None:
    net = Network()
    net.last = UpsamplingHead(2)
    net.last.layers[0] = nn.Conv2d(14, 14, 3, padding=1)
    with pytest.raises(ValueError, match="got none") as error:
        seqca.accelerate(net, only="model.last")
    cause, others = str(error.value).splitlines()[1:]
    assert cause.startswith("  model.last (UpsamplingHead): layers[0] is no plain 1×1 convolution")
    assert others == "  model.heads.depth and 1 more (UpsamplingHead): not named by `only`, its kind is tests.head"


@pytest.mark.parametrize(
    ("reason", "other", "alike"),
    [
        ("gives other numbers: output: error 0.1", "gives other numbers: loss: error 0.2", True),
        ("a gives other numbers: output: error 0.1; b", "a gives other numbers: loss: error 0.2; b", True),
        ("gives other numbers: loss: error 0.1; b", "gives other numbers: loss: error 0.1; c", False),
        ("raised ValueError: x: got 3 channels", "raised ValueError: weight: got bfloat16", False),
        ("mix is no 1×1 convolution: Conv2d(1, 2)", "mix is no 1×1 convolution: Conv2d(3, 4)", False),
    ],
)
def test_modules_are_shown_as_one_only_where_their_reasons_differ_in_no_more_than_numbers(
    reason: str, other: str, alike: bool
) -> None:
    shown = grouped([Left("model.a", "Head", reason), Left("model.b", "Head", other)])
    assert [each.path for each in shown] == (["model.a and 1 more"] if alike else ["model.a", "model.b"])


def test_a_module_that_stands_at_two_places_is_replaced_once() -> None:
    net = Network()
    net.same = net.heads["depth"]
    report = seqca.accelerate(net)
    assert replaced(report) == HEADS and not report.left and type(net.same) is type(net.heads["depth"])


def test_what_is_replaced_is_not_replaced_again() -> None:
    net = Network()
    seqca.accelerate(net, only="model.heads.depth")
    report = seqca.accelerate(net)
    assert replaced(report) == HEADS[1:] and reasons(report) == {HEADS[0]: "replaced already"}


@pytest.mark.parametrize(
    ("fused", "wrong"),
    [
        (HeadWithoutUpdates, "after the step"),
        (HeadOfAnotherEpsilon, "in float64"),
        (HeadWrongInFloat32, r"other numbers: output\[depth\]: largest error"),
        (HeadWithoutGradient, "gradient of backbone|gradient of model.backbone"),
        (HeadThatTrainsAlways, "in evaluation"),
        (HeadThatRaises, "raised RuntimeError: no such maps"),
        (HeadThatRaisesInFloat32, "raised RuntimeError: no such dtype"),
    ],
)
def test_a_replacement_that_is_wrong_is_taken_back_and_the_reason_told(fused: type[nn.Module], wrong: str) -> None:
    net = Network()
    with taught((head(fused), UpsamplingHead)), pytest.raises(ValueError, match=wrong):
        seqca.accelerate(net, Objective(), sample=sample())
    assert all(type(each) is UpsamplingHead for each in net.heads.values())


class Mixing(nn.Module):
    """A part without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(images)


class FusedMixing(nn.Module):
    """What `Mixing` computes."""

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.mix.weight, self.mix.bias)


class MixingOfTwiceTheGradient(nn.Module):
    """Right outputs."""

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, 2 * self.mix.weight - self.mix.weight.detach(), self.mix.bias)


def mixing(fused: type[nn.Module]) -> Replacement:
    return Replacement("tests.mixing", "Mixing", ("unknown",), fused)


def test_of_a_single_image_the_reason_says_that_torch_may_be_wrong() -> None:
    images, targets = sample()
    one = images[:1], {task: label[:1] for task, label in targets.items()}
    with taught((head(HeadWithoutGradient), UpsamplingHead)), pytest.raises(ValueError, match="for one image on a CPU"):
        seqca.accelerate(Network(), Objective(), sample=one)


def test_torch_is_not_suspected_where_an_output_is_wrong_or_nothing_is_normalised() -> None:
    images, targets = sample()
    one = images[:1], {task: label[:1] for task, label in targets.items()}
    with taught((head(HeadWrongInFloat32), UpsamplingHead)), pytest.raises(ValueError, match="other numbers") as error:
        seqca.accelerate(Network(), Objective(), sample=one)
    assert "torch may" not in str(error.value)
    wrong = taught((mixing(MixingOfTwiceTheGradient), Mixing))
    with wrong, pytest.raises(ValueError, match="other numbers: gradient of") as error:
        seqca.accelerate(Mixing(), sample=(images[:1],))
    assert "torch may" not in str(error.value)


def test_where_a_norm_sees_few_values_the_reason_says_that_the_sample_may_be_too_small() -> None:
    few = r"The sample may be too small: model\.backbone\.1\.1 normalises 2 values of a channel"
    images, targets = sample()
    small = images[..., :4, :4], {task: label[..., :4, :4] for task, label in targets.items()}
    with taught((head(HeadWithoutGradient), UpsamplingHead)):
        with pytest.raises(ValueError, match=few):
            seqca.accelerate(Network(), Objective(), sample=small)
        with pytest.raises(ValueError, match="gives other numbers") as error:
            seqca.accelerate(Network(), Objective(), sample=(images, targets))
    assert "too small" not in str(error.value)


def test_what_speaks_against_the_sample_is_said_once_below_the_reasons() -> None:
    images, targets = sample()
    small = images[..., :4, :4], {task: label[..., :4, :4] for task, label in targets.items()}
    net = nn.Sequential(Mixing(), Network())
    with taught((head(HeadWithoutGradient), UpsamplingHead), (mixing(FusedMixing), Mixing)):
        report = seqca.accelerate(net, Objective(), sample=small)
    assert replaced(report) == ["model.0"] and len(reasons(report)) == 2
    assert not any("too small" in reason for reason in reasons(report).values())
    assert len(report.doubts) == 1 and str(report).count("The sample may be too small") == 1


class NormsByKeyword(Network):
    """Calls a norm with its input by name."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.backbone[0](images)
        conv, norm, relu = self.backbone[1]
        maps = [fine, relu(norm(input=conv(fine)))]
        return {task: F.interpolate(head(maps), images.shape[-2:]) for task, head in self.heads.items()}


class PairOfNorm(nn.BatchNorm2d):
    """Returns more than what it normalised."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), x


class NormsInPairs(NormsByKeyword):
    """Has a norm that returns a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone[0] = nn.Sequential(PairOfNorm(3), _First(), self.backbone[0])


class _First(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0]


@pytest.mark.parametrize("network", [NormsByKeyword, NormsInPairs])
def test_a_wrong_part_is_taken_back_however_norms_are_called(network: type[Network]) -> None:
    with taught((head(DepthOff), UpsamplingHead)):
        report = seqca.accelerate(network(), Objective(), sample=sample())
        assert replaced(report) == HEADS[1:] and reasons(report)[HEADS[0]].startswith("gives other numbers")


def fewest(norm: nn.Module, *shape: int) -> Normalised | None:
    trial = Trial(Subject(nn.ModuleDict({"model": norm}), None, default_step, (torch.ones(shape),)))
    return fewest_normalised(trial, trial.inputs())


def test_values_of_a_channel_are_counted_for_norms_of_any_dimension() -> None:
    assert fewest(nn.BatchNorm1d(4), 2, 4) == (2, "model")
    assert fewest(nn.BatchNorm1d(4), 2, 4, 3) == (6, "model")
    assert fewest(nn.BatchNorm2d(4), 2, 4, 3, 5) == (30, "model")
    assert fewest(nn.BatchNorm3d(4), 2, 4, 3, 5, 7) == (210, "model")
    assert fewest(nn.GroupNorm(1, 4), 2, 4) is None


def test_values_are_not_counted_for_norms_over_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fewest(nn.SyncBatchNorm(4), 2, 4, 1, 1) == (2, "model")
    monkeypatch.setattr(observation, "synchronised_over", lambda _: "all of them")
    assert fewest(nn.SyncBatchNorm(4), 2, 4, 1, 1) is None


class Recorded(Network):
    """Notes what it is trained on in float32, as it was and replaced."""

    seen: dict[bool, list[Tensor]]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.training and images.dtype == torch.float32 and torch.is_grad_enabled():
            self.seen[type(self.heads["depth"]) is UpsamplingHead].append(images.detach().clone())
        return super().forward(images)


def test_a_replacement_is_judged_on_inputs_that_tell_what_the_model_itself_errs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Recorded, "seen", {True: [], False: []}, raising=False)
    images, targets = sample()
    seqca.accelerate(Recorded(), Objective(), sample=(images, targets))
    drawn, judged = ([x for x in Recorded.seen[old] if not torch.equal(x, images)] for old in (True, False))
    assert len(drawn) == 12 and len(judged) == 3
    assert all(any(torch.equal(x, y) for y in drawn) for x in judged)


class DepthOff(nn.Module):
    """Wrong for one task alone."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        conv, norm, _, prediction = self.layers
        predicted = aggregate(maps, conv, norm, prediction)
        return predicted * 1.001 if predicted.shape[1] == 1 else predicted


def test_a_wrong_part_does_not_take_the_others_with_it() -> None:
    net = Network()
    with taught((head(DepthOff), UpsamplingHead)):
        report = seqca.accelerate(net, Objective(), sample=sample())
    assert replaced(report) == HEADS[1:]
    assert reasons(report)[HEADS[0]].startswith("gives other numbers: output[depth]")
    assert type(net.heads["depth"]) is UpsamplingHead


class FloatDepthObjective(Objective):
    """One of its losses is float32 whatever the predictions are."""

    def forward(self, output: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = super().forward(output, targets)
        return {**losses, "depth": losses["depth"].float()}


def test_results_of_another_dtype_leave_the_others_compared_in_float64() -> None:
    report = seqca.accelerate(Network(), FloatDepthObjective(), sample=sample())
    assert replaced(report) == HEADS and report.compared_in == ("float32", "float64")
    assert report.not_in_float64 == ("loss[depth]", "loss[depth] in evaluation")
    assert "In float64 all but loss[depth], loss[depth] in evaluation." in str(report)
    with taught((head(HeadOfAnotherEpsilon), UpsamplingHead)), pytest.raises(ValueError, match="in float64"):
        seqca.accelerate(Network(), FloatDepthObjective(), sample=sample())


class FloatNetwork(Network):
    """Computes in float32 whatever it is given."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {task: x.float() for task, x in super().forward(images).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_computes_in_another_dtype_is_compared_in_its_own_alone(dtype: torch.dtype) -> None:
    images, targets = sample()
    own = images.to(dtype), {task: label.to(dtype) for task, label in targets.items()}
    report = seqca.accelerate(FloatNetwork().to(dtype), Objective(), sample=own)
    assert replaced(report) == HEADS and report.compared_in == (str(dtype).removeprefix("torch."),)
    with taught((head(HeadWithoutUpdates), UpsamplingHead)), pytest.raises(ValueError, match="after the step"):
        seqca.accelerate(FloatNetwork().to(dtype), Objective(), sample=own)


def test_without_a_criterion_the_gradients_of_all_outputs_are_compared() -> None:
    with taught((head(HeadWithoutGradient), UpsamplingHead)), pytest.raises(ValueError, match="gradient of"):
        seqca.accelerate(Network(), sample=sample())


def test_a_criterion_may_be_a_function_and_a_step_ones_own() -> None:
    def step(
        model: nn.Module, criterion: nn.Module, images: Tensor, targets: dict[str, Tensor]
    ) -> tuple[object, Tensor]:
        output = model(images * 2)
        return output, criterion(output, targets)

    report = seqca.accelerate(Network(), lambda output, targets: Objective()(output, targets)["total"], sample=sample())
    assert replaced(report) == HEADS
    report = seqca.accelerate(Network(), Objective(), sample=sample(), step=step)
    assert replaced(report) == HEADS


class WithFunctionalDropout(Network):
    """Random even where no module is."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {task: F.dropout(x, 0.1, self.training) for task, x in super().forward(images).items()}


def test_a_step_that_draws_random_numbers_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"^sample: got a training step that draws random numbers"):
        seqca.accelerate(WithFunctionalDropout(), Objective(), sample=sample())


def test_random_numbers_go_on_where_they_were_after_a_step_that_raises() -> None:
    def criterion(output: object, targets: object) -> Tensor:
        torch.rand(())
        raise RuntimeError("no labels")

    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="no labels"):
        seqca.accelerate(Network(), criterion, sample=sample())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sample_whose_loss_is_not_finite_is_refused() -> None:
    images, targets = sample()
    with pytest.raises(ValueError, match=r"^sample: got loss\[depth\] that is not finite, .* all ignored"):
        seqca.accelerate(Network(), Objective(), sample=(images, targets | {"depth": targets["depth"] / 0}))


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("net",), {}, "^model: got str"),
        ((Objective(), Network()), {}, "^model: got Objective, which has no parameters, and a criterion that has"),
        ((Network(), 3), {}, "^criterion: got int"),
        ((Network(),), {"sample": torch.zeros(2, 3, 24, 32)}, "^sample: got Tensor"),
        ((Network(),), {"sample": ()}, "^sample: got an empty tuple, expected"),
        ((Network(),), {"outputs": "half"}, "^outputs: got 'half'"),
        ((Network(),), {"only": [3]}, "^only: got 3"),
        ((Network(),), {"only": Network().heads}, "^only: got a module, ModuleDict, expected paths"),
        ((Network(),), {"only": None}, "^only: got None, expected paths"),
        ((Network(), lambda *_: "much"), {"sample": sample()}, "^criterion: got str without a total"),
        ((Network(),), {"step": 3}, "^step: got int, expected a function"),
        ((Network(),), {"step": lambda *_: torch.zeros(()), "sample": sample()}, "^step: got one that returns Tensor,"),
        ((Network(),), {"step": lambda *_: (1, 2, 3), "sample": sample()}, "^step: got one that returns tuple of 3"),
        ((Network(), Objective()), {"sample": sample()[:1]}, "^sample: got TypeError: .* from a training step"),
        ((Network(), lambda *_: {}["edge"]), {"sample": sample()}, "^sample: got KeyError: 'edge' from a training"),
        ((Network().requires_grad_(False), Objective()), {"sample": sample()}, "^model: got a loss that needs no"),
        (
            (Network(), Objective()),
            {"sample": (sample()[0].double(), sample()[1])},
            "^sample: got RuntimeError: .* from a training step",
        ),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, keywords: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        seqca.accelerate(*arguments, **keywords)


class OnlyInFloat32(Network):
    """Has an operation that float64 lacks."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if images.dtype == torch.float64:
            raise NotImplementedError("not for Double\nat all")
        return super().forward(images)


def test_a_model_that_raises_in_float64_alone_is_told_from_one_that_raises() -> None:
    with pytest.raises(ValueError, match=r"^sample: got NotImplementedError: not for Double from the model in float64"):
        seqca.accelerate(OnlyInFloat32(), Objective(), sample=sample())


def test_a_report_is_readable() -> None:
    net = Network()
    net.heads["depth"] = ForkedHead(1)
    text = str(seqca.accelerate(net, Objective(), sample=sample()))
    row = (
        r"model\.heads\.normals  UpsamplingHead  tests\.head  aggregation_head \(aten\)  [\d.]+ kB → [\d.]+ kB +"
        r"[\de.-]+\n"
    )
    assert re.search(row, text)
    assert "model.heads.depth" in text and "something else" in text
    assert "A training step keeps" in text and "compared in float32 and in float64" in text
    assert "no sample" in str(seqca.accelerate(Network()))
