"""The multi-task objective."""

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqca.losses import MultiTaskLoss
from seqca.ops import upsampled_loss
from seqca.tasks import get_task

CHANNELS = {"semseg": 5, "depth": 1, "normals": 3, "edge": 1, "sal": 1, "human_parts": 7}
TASKS = ("semseg", "depth", "normals", "edge")


class Output(NamedTuple):
    """What a network returns, as far as the objective looks at it."""

    final: dict[str, Tensor]
    deep: tuple[dict[str, Tensor], ...]


def network_output(tasks: tuple[str, ...], auxiliary: tuple[str, ...] = ()) -> Output:
    generator = torch.Generator().manual_seed(0)

    def predictions(names: tuple[str, ...], scale: int) -> dict[str, Tensor]:
        size = (2, 8 >> scale, 16 >> scale)
        return {
            name: torch.randn(size[0], CHANNELS[name], *size[1:], generator=generator, requires_grad=True)
            for name in names
        }

    return Output(predictions(tasks, 0), tuple(predictions(tasks + auxiliary, scale) for scale in range(4)))


def labels() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = {name: torch.randn(2, channels, 32, 64, generator=generator) for name, channels in CHANNELS.items()}
    return {
        "semseg": maps["semseg"].argmax(1),
        "human_parts": maps["human_parts"].argmax(1),
        "depth": maps["depth"].abs() + 0.5,
        "normals": F.normalize(maps["normals"], dim=1),
        "edge": (maps["edge"] > 1).float(),
        "sal": (maps["sal"] > 0).float(),
    }


def test_the_total_is_the_weighted_sum_over_final_and_deep_predictions() -> None:
    output, targets = network_output(TASKS), labels()
    result = MultiTaskLoss(TASKS)(output, targets)
    expected = 0.0
    for name in TASKS:
        for key, prediction in [(name, output.final[name])] + [
            (f"{name}/deep{scale}", output.deep[scale][name]) for scale in range(4)
        ]:
            part = upsampled_loss(prediction, targets[name], get_task(name).loss)
            assert result.parts[key].item() == part.item()
            expected += {"semseg": 1, "depth": 1, "normals": 10, "edge": 50}[name] * part.item()
    assert len(result.parts) == 4 * 5
    assert result.total.item() == pytest.approx(expected, rel=1e-6)


def test_every_prediction_gets_its_gradient() -> None:
    output = network_output(tuple(CHANNELS))
    MultiTaskLoss(CHANNELS)(output, labels()).total.backward()
    for predictions in (output.final, *output.deep):
        for name, prediction in predictions.items():
            assert prediction.grad.abs().max() > 0, name


def test_weights_replace_the_defaults_of_the_tasks_they_name() -> None:
    output, targets = network_output(("depth", "edge")), labels()
    criterion = MultiTaskLoss(("depth", "edge"), weights={"edge": 0})
    assert criterion.weights == {"depth": 1, "edge": 0}
    result = criterion(output, targets)
    depth = sum(value.item() for key, value in result.parts.items() if key.startswith("depth"))
    assert result.total.item() == pytest.approx(depth, rel=1e-6)
    assert result.parts["edge"] > 0  # the parts are not weighted


def test_auxiliary_tasks_count_in_the_deep_predictions_alone() -> None:
    output, targets = network_output(("semseg",), ("edge",)), labels()
    result = MultiTaskLoss(("semseg",), auxiliary=("edge",))(output, targets)
    assert set(result.parts) == {"semseg"} | {f"{name}/deep{k}" for name in ("semseg", "edge") for k in range(4)}
    weights = {"semseg": 1, "edge": 50}
    expected = sum(weights[key.partition("/")[0]] * value.item() for key, value in result.parts.items())
    assert result.total.item() == pytest.approx(expected, rel=1e-6)


def test_a_network_without_deep_predictions_is_served_too() -> None:
    output = network_output(("depth",))._replace(deep=())
    result = MultiTaskLoss(("depth",))(output, labels())
    assert result.total.item() == result.parts["depth"].item()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"tasks": ("semseg", "smell")}, "task: got 'smell', expected one of semseg"),
        ({"tasks": ()}, "tasks: got none, expected at least one"),
        ({"tasks": ("depth",), "auxiliary": ("depth",)}, "tasks, auxiliary: got depth twice, expected each task once"),
        ({"tasks": ("depth",), "weights": {"edge": 1}}, "weights: got one for 'edge', expected tasks among depth"),
        (
            {"tasks": ("depth",), "weights": {"depth": -1}},
            r"weights\['depth'\]: got -1, expected a finite number, not negative",
        ),
        (
            {"tasks": ("depth",), "weights": {"depth": math.nan}},
            r"weights\['depth'\]: got nan, expected a finite number",
        ),
    ],
)
def test_what_cannot_be_an_objective_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskLoss(**arguments)


def test_a_string_is_not_taken_for_a_list_of_tasks() -> None:
    with pytest.raises(TypeError, match="'depth'"):
        MultiTaskLoss("depth")


def test_missing_labels_and_predictions_are_named() -> None:
    output, targets = network_output(("semseg", "depth")), labels()
    criterion = MultiTaskLoss(("semseg", "depth"))
    with pytest.raises(ValueError, match="targets: got semseg, expected depth as well"):
        criterion(output, {"semseg": targets["semseg"]})
    with pytest.raises(ValueError, match=r"output.final: got semseg, expected semseg, depth"):
        criterion(output._replace(final={"semseg": output.final["semseg"]}), targets)
    with pytest.raises(ValueError, match=r"output.deep\[1\]"):
        deep = (output.deep[0], {"depth": output.deep[1]["depth"]}, *output.deep[2:])
        criterion(output._replace(deep=deep), targets)
    with pytest.raises(ValueError, match=r"output.final: got semseg, depth, expected depth"):
        MultiTaskLoss(("depth",))(output, targets)
    with pytest.raises(TypeError, match=r"output: got dict, expected what a network returns, .final and .deep"):
        criterion(dict(output.final), targets)


def test_a_label_that_does_not_fit_is_refused_with_the_name_of_its_task() -> None:
    output, targets = network_output(("semseg", "depth")), labels()
    criterion = MultiTaskLoss(("semseg", "depth"))
    with pytest.raises(
        ValueError, match=r"^depth: target: got shape \(1, 1, 32, 64\), expected \(2, 1, H ≥ 8, W ≥ 16\)"
    ):
        criterion(output, targets | {"depth": targets["depth"][:1]})
    with pytest.raises(TypeError, match=r"^semseg: target: got torch.float32, expected torch.int64"):
        criterion(output, targets | {"semseg": targets["semseg"].float()})
    targets["semseg"][1, 2, 3] = 77
    with pytest.raises(ValueError, match=r"^semseg: target: got 77 at image 1, row 2, column 3"):
        criterion(output, targets)


def test_the_losses_of_invpt_ignore_padding_sum_over_channels_and_take_two_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = {"edge": 1, "sal": 2, "normals": 3}
    raw = {name: torch.randn(2, channels, 4, 4, generator=generator) for name, channels in raw.items()}
    labels = {name: (torch.rand(2, 1, 16, 16, generator=generator) > 0.7).float() for name in ("edge", "sal")}
    labels["normals"] = F.normalize(torch.randn(2, 3, 16, 16, generator=generator), dim=1)
    for label in labels.values():
        label[:, :, :4] = 255
    parts = MultiTaskLoss(tuple(raw), protocol="invpt")(Output(raw, ()), labels).parts

    upsampled = {name: F.interpolate(x, (16, 16), mode="bilinear")[:, :, 4:] for name, x in raw.items()}
    seen = {name: label[:, :, 4:] for name, label in labels.items()}
    error = (F.normalize(upsampled["normals"], dim=1) - seen["normals"]).abs().sum(1).mean()
    assert parts["normals"].item() == pytest.approx(error.item(), rel=1e-5)
    z, y = upsampled["edge"], seen["edge"]
    edge = -(0.95 * y * F.logsigmoid(z) + 0.05 * (1 - y) * F.logsigmoid(-z)).mean()
    assert parts["edge"].item() == pytest.approx(edge.item(), rel=1e-5)
    share = 1 - seen["sal"].mean()
    logs, y = upsampled["sal"].log_softmax(1), seen["sal"][:, 0]
    sal = -(share * y * logs[:, 1] + (1 - share) * (1 - y) * logs[:, 0]).mean()
    assert parts["sal"].item() == pytest.approx(sal.item(), rel=1e-5)
