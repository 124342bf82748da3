"""The registry of tasks, and a task that is added from outside."""

import dataclasses
import importlib
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seqca import tasks
from seqca.colour import palette
from seqca.labels import LabelKind, check_label
from seqca.loss_type import Loss
from seqca.losses import MultiTaskLoss
from seqca.metrics import MultiTaskMetric, best_constant, delta_m
from seqca.tasks import Score, available_tasks, get_task, register_task
from tests.metrics.examples import labels_and_predictions

DOCUMENT = Path(__file__).parents[1] / "docs" / "tasks.md"
CHANNELS = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1, "sal": 1, "human_parts": 7}


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_six_tasks_have_their_published_weights_and_directions() -> None:
    assert available_tasks() == ("semseg", "depth", "normals", "edge", "sal", "human_parts")
    assert [get_task(name).weight for name in available_tasks()] == [1, 1, 10, 50, 5, 2]
    assert [name for name in available_tasks() if not get_task(name).score.higher_is_better] == ["depth", "normals"]
    assert [get_task(name).channels for name in available_tasks()] == [None, 1, 3, 1, 1, 7]
    assert [get_task(name).loss for name in available_tasks()] == [
        Loss("cross_entropy", ignore=255),
        Loss("l1", ignore=255),
        Loss("unit_l1", ignore=255),
        Loss("balanced_bce", positive_weight=0.95),
        Loss("balanced_bce"),
        Loss("cross_entropy", ignore=255),
    ]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_document_s_table_agrees_with_the_registry() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = {
        row[0].strip("`"): row for row in ([c.strip() for c in r.split("|")[1:-1]] for r in text.splitlines()) if row
    }
    for name in available_tasks():
        task, (_, channels, _, _, weight, scores, better) = get_task(name), rows[name]
        metric = task.build_metric(CHANNELS[name])
        assert channels == ("classes" if task.channels is None else str(task.channels))
        assert float(weight) == task.weight
        assert better == ("higher" if task.score.higher_is_better else "lower")
        assert re.findall("`(.*?)`", scores) == list(metric.compute())
        assert re.findall("`(.*?)`", scores)[0] == task.score.name
        assert task.score.unit in scores


def test_an_unknown_task_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="task: got 'smell', expected one of semseg, depth, normals"):
        get_task("smell")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="task: got the name 'depth', expected one that is not registered yet"):
        register_task(get_task("depth"))


@pytest.mark.parametrize(
    "field, value",
    [
        ("name", "a/b"),
        ("name", ""),
        ("name", "keys"),
        ("name", "train"),
        ("channels", 0),
        ("weight", -1.0),
        ("kind", LabelKind.CLASS),
    ],
)
def test_a_task_that_makes_no_sense_cannot_be_made(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(get_task("depth"), **{field: value})


def test_a_score_names_its_metric_by_module_and_class() -> None:
    with pytest.raises(ValueError, match="metric: got 'nowhere', expected 'module:Class'"):
        Score("rmse", "nowhere", higher_is_better=False)


def test_a_data_set_may_score_a_task_in_its_own_way() -> None:
    labels, predictions = labels_and_predictions(3)
    by_f = Score("maxF", "seqca.metrics:SaliencyScores", higher_is_better=True)
    near = Score("log_rmse", "seqca.metrics:DepthError", higher_is_better=False, options={"ignore": 0})
    metric = MultiTaskMetric({"sal": 1, "depth": 1}, {"sal": by_f, "depth": near})
    labels["depth"][labels["depth"] == 255] = 1  # else a depth of 255 m, as 255 is nothing special here
    metric.update(predictions, labels)
    values = {key: float(value) for key, value in metric.compute().items()}
    baseline = values | {"sal/maxF": values["sal/maxF"] / 1.1, "depth/log_rmse": values["depth/log_rmse"] / 1.3}
    assert delta_m(values, baseline) == 0, "the tasks' own scores are the same"
    assert delta_m(values, baseline, {"sal": by_f, "depth": near}) == pytest.approx((10 - 30) / 2)
    assert metric.metrics["depth"].ignore == 0
    assert best_constant("depth", [labels], score=near)["log_rmse"] > 0


@pytest.mark.parametrize("name", CHANNELS)
def test_labels_outside_their_range_are_refused_and_ignored_pixels_are_not(name: str) -> None:
    task, (labels, _) = get_task(name), labels_and_predictions(1)
    label = labels[name][0]
    check_label(label, task.labels, source="a test", task=name)
    label[..., 5, 5] = {"normals": 2, "depth": 0}.get(name, -1)
    with pytest.raises(ValueError, match=f"a test: {name}: got .*row 5, column 5.*, expected"):
        check_label(label, task.labels, source="a test", task=name)


@pytest.mark.parametrize("name", CHANNELS)
def test_tasks_travel_to_other_processes(name: str) -> None:
    assert pickle.loads(pickle.dumps(get_task(name))) == get_task(name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CHANNELS)
def test_decoded_output_is_a_prediction_in_the_task_s_range(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = (100 * torch.randn(2, CHANNELS[name], 5, 6, generator=generator)).to(dtype)
    prediction = get_task(name).decode(raw)
    if CHANNELS[name] > 3:
        assert prediction.shape == (2, 5, 6) and prediction.dtype == torch.int64
        assert torch.equal(raw.gather(1, prediction[:, None])[:, 0], raw.amax(1))
    else:
        assert prediction.shape == raw.shape and prediction.dtype == dtype
    if name == "depth":
        assert torch.equal(prediction, torch.where(raw > 0, raw, 0))
    if name == "normals":
        lengths = prediction.float().norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=torch.finfo(dtype).eps * 4 + 1e-6)
        assert (F.cosine_similarity(prediction.double(), raw.double()) > 0.999).all()
        assert torch.equal(get_task(name).decode(torch.zeros_like(raw)), torch.zeros_like(raw))
    if name in ("edge", "sal"):
        assert prediction.min() >= 0 and prediction.max() <= 1
        assert torch.equal(prediction > 0.5, raw > 0)


@pytest.mark.parametrize("name", CHANNELS)
def test_predictions_and_labels_become_pictures_with_ignored_pixels_black(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = get_task(name).decode(torch.randn(1, CHANNELS[name], 5, 6, generator=generator))[0].numpy()
    picture = get_task(name).colour(prediction)
    assert picture.shape == (5, 6, 3) and picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3
    prediction[..., 2, 3] = 255
    assert get_task(name).colour(prediction)[2, 3].tolist() == [0, 0, 0]


def test_colours_mean_what_the_field_expects() -> None:
    towards_camera, floor, to_the_right = [0, 0, -1], [0, -1, 0], [1, 0, 0]
    normals = np.array([towards_camera, floor, to_the_right], np.float32).T[:, None]
    assert get_task("normals").colour(normals)[0].tolist() == [[128, 128, 255], [128, 255, 128], [255, 128, 128]]
    depth = np.array([[[0.0, 1, 3, 9]]], np.float32)
    lightness = get_task("depth").colour(depth, low=1, high=3).astype(int).sum(-1)[0]
    assert lightness[0] == lightness[1] > lightness[2] == lightness[3]  # clipped to the range; near is light
    assert get_task("edge").colour(np.array([[[0.0, 1]]], np.float32))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_class_colours_are_stable_and_all_different() -> None:
    colours = palette()
    assert len(np.unique(colours, axis=0)) == 256
    assert colours[0].tolist() == [150, 150, 150] and colours[255].tolist() == [0, 0, 0]
    classes = np.array([[0, 7], [41, 255]], np.uint8)
    assert np.array_equal(get_task("semseg").colour(classes), colours[classes])


def test_maps_of_another_kind_are_not_coloured() -> None:
    for name, array in {
        "semseg": np.zeros((2, 2), np.float32),
        "human_parts": np.full((2, 2), 256),
        "depth": np.zeros((2, 2), np.float32),
        "normals": np.zeros((1, 2, 2), np.float32),
        "edge": np.zeros((1, 2, 2), np.int64),
    }.items():
        with pytest.raises(ValueError, match=r"^(classes|depth|normals|probability): got .*, expected"):
            get_task(name).colour(array)


def test_knowing_the_tasks_takes_neither_torchmetrics_nor_matplotlib() -> None:
    code = (
        "import sys, seqca.tasks, seqca.losses; print({'torchmetrics', 'lightning', 'matplotlib'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.fixture
def albedo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the document's seventh task, imported; the registry is as before afterwards."""
    (source,) = [block for block in code_blocks() if block.startswith("# albedo.py")]
    (tmp_path / "albedo.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    monkeypatch.delitem(sys.modules, "albedo", raising=False)
    return importlib.import_module("albedo")


def test_a_seventh_task_from_outside_is_trained_scored_decoded_and_coloured(albedo: ModuleType) -> None:
    assert available_tasks()[-1] == "albedo"
    task = get_task("albedo")
    generator = torch.Generator().manual_seed(0)
    label = torch.rand(2, 3, 16, 24, generator=generator)
    label[:, :, :2] = 255
    check_label(label[0], task.labels, source="a test", task="albedo")
    raw = torch.rand(2, 3, 4, 6, generator=generator, requires_grad=True)
    depth = torch.rand(2, 1, 4, 6, generator=generator)
    batch = {"albedo": label, "depth": torch.ones(2, 1, 16, 24)}

    output = SimpleNamespace(final={"albedo": raw, "depth": depth}, deep=({"albedo": raw, "depth": depth},))
    result = MultiTaskLoss(("depth", "albedo"))(output, batch)
    upsampled = F.interpolate(raw, (16, 24), mode="bilinear")
    valid = label != 255
    expected = (upsampled - label)[valid].abs().mean()
    assert result.parts["albedo/deep0"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert result.total.item() == pytest.approx(4 * expected.item() + 2 * result.parts["depth"].item(), rel=1e-6)
    result.total.backward()
    assert raw.grad.abs().max() > 0

    metric = MultiTaskMetric({"albedo": 3})
    prediction = task.decode(upsampled.detach())
    metric.update({"albedo": prediction}, batch)
    scores = metric.compute()
    assert scores["albedo/mae"].item() == pytest.approx(expected.item(), rel=1e-6)
    constant = best_constant("albedo", [batch])
    assert constant["mae"] == pytest.approx(0.25, abs=0.03)  # the median of uniform numbers
    assert delta_m(scores, {"albedo/mae": 2 * scores["albedo/mae"]}) == pytest.approx(50)

    picture = task.colour(label[0].numpy())
    assert picture.shape == (16, 24, 3) and picture.dtype == np.uint8 and picture[0, 0].tolist() == [0, 0, 0]


def test_the_loss_of_a_task_may_be_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    (source,) = [block for block in code_blocks() if "def robust" in block]
    scope: dict = {}
    exec(source, scope)
    register_task(dataclasses.replace(get_task("depth"), name="robust_depth", loss=scope["robust"]))
    raw, label = torch.rand(2, 1, 4, 6, requires_grad=True), torch.full((2, 1, 16, 24), 3.0)
    label[0] = 255
    result = MultiTaskLoss(("robust_depth",))(
        SimpleNamespace(final={"robust_depth": raw}, deep=()), {"robust_depth": label}
    )
    error = (F.interpolate(raw, (16, 24), mode="bilinear") - 3)[1].abs()
    assert result.total.item() == pytest.approx((0.1 * (error - 0.05)).mean().item(), rel=1e-5)
    result.total.backward()
    assert raw.grad[1].abs().min() > 0 and raw.grad[0].abs().max() == 0


@pytest.mark.parametrize("number", range(len(code_blocks())))
def test_the_document_s_code_runs(number: int, albedo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    block = code_blocks()[number]
    monkeypatch.setattr(tasks, "_TASKS", {name: task for name, task in tasks._TASKS.items() if name != "albedo"})
    exec(compile(block, f"{DOCUMENT.name}[{number}]", "exec"), {"__name__": "albedo"})
