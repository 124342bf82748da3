"""The LightningModule: what is minimised, when it refuses to go on, and by what a run is judged."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from seqca.models.checkpoint import CheckpointError
from seqca.tasks import primary_scores
from seqca.training.datamodule import RoomsDataModule
from seqca.training.module import MultiTaskModule, read_scores, summed_log_scores


def batch(size: tuple[int, int] = (32, 32)) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(2, 3, *size, generator=generator),
        "depth": torch.rand(2, 1, *size, generator=generator) + 1,
        "edge": (torch.rand(2, 1, *size, generator=generator) > 0.8).float(),
        "normals": torch.nn.functional.normalize(torch.randn(2, 3, *size, generator=generator), dim=1),
        "counted": torch.tensor([True, False]),
    }


@pytest.fixture(scope="module")
def module() -> MultiTaskModule:
    torch.manual_seed(0)
    return MultiTaskModule({"depth": 1, "edge": 1}, auxiliary={"normals": 3}, weights={"edge": 2.0}, drop_path=0.0)


@pytest.fixture
def logged(module, monkeypatch) -> dict:
    """What the module logs, by name."""
    values = {}
    monkeypatch.setattr(module, "log", lambda name, value, **options: values.update({name: float(value)}))
    monkeypatch.setattr(module, "log_dict", lambda scores, **options: values.update(scores))
    return values


def test_every_parameter_has_a_gradient_so_that_plain_ddp_works(module, logged):
    module.train().zero_grad()
    module.training_step(batch(), 0).backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


def test_the_loss_is_the_weighted_sum_and_the_progress_shows_every_task(module, logged):
    loss = module.train().training_step(batch(), 0)
    assert logged["loss"] == pytest.approx(loss.item())
    assert {"loss/depth", "loss/edge", "loss/normals"} <= logged.keys()
    with torch.no_grad():
        parts = module.criterion(module.network(batch()["image"]), batch()).parts
    weights = {"depth": 1.0, "edge": 2.0, "normals": 10.0}
    expected = sum(weights[key.split("/")[0]] * float(part) for key, part in parts.items())
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_finite_number_stops_with_the_task_and_the_step(module, logged, monkeypatch, value):
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(global_step=17, current_epoch=3))
    final = module.network.heads["edge"].aggregation
    handle = final.register_forward_hook(lambda part, inputs, output: output * value)
    try:
        with pytest.raises(FloatingPointError, match=r"loss: got edge = (nan|inf) at step 17 \(epoch 3\)"):
            module.train().training_step(batch(), 0)
    finally:
        handle.remove()


def test_the_learning_rate_falls_polynomially_to_zero_over_the_whole_run(module, monkeypatch):
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(estimated_stepping_batches=10))
    monkeypatch.setattr(module, "decay_interval", "step")
    module.zero_grad()
    settings = module.configure_optimizers()
    optimizer, schedule = settings["optimizer"], settings["lr_scheduler"]["scheduler"]
    assert type(optimizer) is torch.optim.Adam and settings["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1e-4 * (1 - t / 10) ** 0.9 for t in range(11)])


@pytest.mark.parametrize("accumulated", [1, 2])
def test_by_epoch_the_learning_rate_falls_over_the_epochs_that_the_steps_make(module, monkeypatch, accumulated):
    fit_loop = SimpleNamespace(setup_data=lambda: None)
    trainer = SimpleNamespace(fit_loop=fit_loop, num_training_batches=3, accumulate_grad_batches=accumulated)
    per_epoch = {1: 3, 2: 2}[accumulated]
    trainer.estimated_stepping_batches = 4 * per_epoch
    monkeypatch.setattr(module, "_trainer", trainer)
    schedule = module.configure_optimizers()["lr_scheduler"]
    (factor,) = schedule["scheduler"].lr_lambdas
    assert schedule["interval"] == "epoch"
    assert [factor(epoch) for epoch in range(5)] == pytest.approx([(1 - epoch / 4) ** 0.9 for epoch in range(5)])


@pytest.mark.parametrize(
    ("protocol", "interval", "rate", "decay"), [("mtinet", "epoch", 1e-4, 1e-4), ("invpt", "step", 2e-5, 1e-6)]
)
def test_the_optimiser_and_its_decay_are_the_protocol_s_unless_others_are_given(protocol, interval, rate, decay):
    module = MultiTaskModule({"depth": 1}, protocol=protocol)
    (group,) = module.make_optimizer(module.parameters()).param_groups
    assert (group["lr"], group["weight_decay"], module.decay_interval) == (rate, decay, interval)
    other = "step" if interval == "epoch" else "epoch"
    module = MultiTaskModule({"depth": 1}, protocol=protocol, optimizer=torch.optim.SGD, decay_interval=other)
    assert module.decay_interval == other and type(module.make_optimizer(module.parameters())) is torch.optim.SGD


def test_a_checkpoint_of_the_other_protocol_is_refused():
    invpt = MultiTaskModule({"depth": 1}, protocol="invpt")
    checkpoint = {"hyper_parameters": dict(invpt.hparams), "state_dict": invpt.state_dict()}
    invpt.on_load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="got a run of protocol invpt, expected one of mtinet"):
        MultiTaskModule({"depth": 1}).on_load_checkpoint(checkpoint)


def test_a_run_without_an_end_is_refused(module, monkeypatch):
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(estimated_stepping_batches=math.inf))
    with pytest.raises(ValueError, match="max_steps: got a run without an end, expected max_epochs or max_steps"):
        module.configure_optimizers()


def test_scores_count_what_is_to_be_counted_and_are_reported_once(module, logged):
    predictions = module.eval().validation_step(batch(), 0)
    module.on_validation_epoch_end()
    error = (predictions["depth"] - batch()["depth"])[:1].square().mean().sqrt()
    assert logged["val/depth/rmse"] == pytest.approx(error.item(), rel=1e-5)
    assert logged["val/score"] == pytest.approx(summed_log_scores(module.scores, primary_scores(["depth", "edge"])))
    assert "val/normals/mean" not in logged, "auxiliary tasks have no final prediction to score"


def test_the_score_is_the_sum_of_signed_logarithms():
    scores = {"semseg/mIoU": 0.5, "depth/rmse": 0.25, "normals/mean": 20.0, "normals/median": 7.0}
    expected = math.log(0.5) - math.log(0.25) - math.log(20)
    assert summed_log_scores(scores, primary_scores(["semseg", "depth", "normals"])) == pytest.approx(expected)
    assert summed_log_scores({"semseg/mIoU": 0.0}, primary_scores(["semseg"])) == pytest.approx(math.log(0.001))


def test_with_single_task_scores_the_score_is_delta_m(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"depth/rmse": 0.5, "depth/log_rmse": 0.3}))
    (tmp_path / "b.json").write_text(json.dumps({"edge/pixel_f": 0.4}))
    scores = {"depth/rmse": 0.4, "edge/pixel_f": 0.38}
    judged = MultiTaskModule.overall(
        SimpleNamespace(
            primary=primary_scores(["depth", "edge"]),
            single_task_scores=read_scores(
                [tmp_path / "a.json", tmp_path / "b.json"], primary_scores(["depth", "edge"])
            ),
        ),
        scores,
    )
    assert judged == pytest.approx(100 * (0.2 - 0.05) / 2)


def test_single_task_scores_that_are_missing_or_there_twice_are_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"depth/rmse": 0.5}))
    with pytest.raises(ValueError, match=r"single_task_scores: got .*, expected edge/pixel_f as well"):
        read_scores([path], primary_scores(["depth", "edge"]))
    with pytest.raises(ValueError, match=r"single_task_scores: got depth/rmse in .* and in another file"):
        read_scores([path, path], primary_scores(["depth"]))


def test_single_task_scores_of_the_other_protocol_are_refused(tmp_path):
    path = tmp_path / "a.json"
    primary = primary_scores(["depth"])
    path.write_text(json.dumps({"depth/rmse": 0.5, "about": {"protocol": "invpt"}}))
    with pytest.raises(
        ValueError, match=r"single_task_scores: got .*a\.json of protocol invpt, expected one of mtinet"
    ):
        read_scores([path], primary, "mtinet")
    assert read_scores([path], primary, "invpt") == {"depth/rmse": 0.5}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "No such file"),
        ("{", "expected JSON"),
        ("[1]", r'expected {"task/score": value}'),
        ('{"depth/rmse": "x"}', "got 'x' as depth/rmse"),
    ],
)
def test_a_file_that_holds_no_scores_is_named(tmp_path, content, found):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"^single_task_scores: got ") as error:
        read_scores([path], primary_scores(["depth"]))
    assert str(path) in str(error.value) and found in str(error.value)


@pytest.mark.parametrize("power", [-0.5, math.nan, math.inf, "2"])
def test_a_power_of_decay_that_would_raise_the_learning_rate_is_refused(power):
    with pytest.raises(ValueError, match=r"decay_power: got .*, expected a finite number, not negative"):
        MultiTaskModule({"depth": 1}, decay_power=power)


def test_overfitting_batches_is_refused_where_it_would_replace_the_sampler():
    data = RoomsDataModule(tasks=["depth"], size=(32, 32), train_length=2, val_length=1, test_length=1)
    data.trainer = SimpleNamespace(overfit_batches=1)
    with pytest.raises(ValueError, match="overfit_batches: got 1, expected 0"):
        data.train_dataloader()
