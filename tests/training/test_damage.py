"""Numbers and parts that no run can go on from: never written over a good checkpoint, refused with the file's name."""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from seqca.cli import main as command
from seqca.models.checkpoint import CheckpointError
from seqca.training import module
from seqca.training.cli import main
from seqca.training.restoring import check_training_state
from tests.training.tiny_runs import RECIPE, TinyNet, last

NAN = math.nan


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SequentialCrossAttentionNet", TinyNet)


def fit(folder: Path, *more: str) -> int:
    (folder / "recipe.yaml").write_text(RECIPE)
    return command(["fit", "--config", str(folder / "recipe.yaml"), f"--trainer.logger.save_dir={folder}", *more])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SequentialCrossAttentionNet", TinyNet)
        assert fit(folder, "--trainer.max_epochs=1") == 0
    return torch.load(last(folder), weights_only=True)


def break_weights(optimizer: torch.optim.Optimizer) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad.fill_(NAN)


def break_moments(optimizer: torch.optim.Optimizer) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad.fill_(1e30)  # its square is infinite, and the weight never moves again


@pytest.mark.parametrize(
    ("harm", "found"), [(break_weights, "network.body.0.weight"), (break_moments, "exp_avg_sq of parameter 0")]
)
def test_numbers_that_are_not_finite_replace_no_good_checkpoint(tmp_path, monkeypatch, capsys, harm, found):
    def step(self: module.MultiTaskModule, optimizer: torch.optim.Optimizer) -> None:
        if self.global_step == 2:  # before the epoch's last step, after which no loss is looked at
            harm(optimizer)

    monkeypatch.setattr(module.MultiTaskModule, "on_before_optimizer_step", step)
    assert fit(tmp_path, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0") == 1
    reason = capsys.readouterr().err.splitlines()[-1]
    assert f"{found}: got a number that is not finite after step 3 (epoch 0)" in reason
    kept = torch.load(last(tmp_path), weights_only=True)
    assert kept["global_step"] == 2
    check_training_state(kept)
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    assert [path.name for path in last(tmp_path).parent.iterdir()] == ["last.ckpt"]


def changed(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(checkpoint: dict[str, Any]) -> None:
        part: Any = checkpoint
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = to

    return change


def without(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(checkpoint: dict[str, Any]) -> None:
        part: Any = checkpoint
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]

    return change


STATE, GROUP = ("optimizer_states", 0, "state"), ("optimizer_states", 0, "param_groups", 0)
PROGRESS = ("loops", "fit_loop", "epoch_progress", "current")
DAMAGE: Mapping[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a version that is none": (changed("pytorch-lightning_version", to=[3]), "pytorch-lightning_version: got"),
    "settings that are text": (changed("hyper_parameters", to="tasks"), "hyper_parameters: got str"),
    "no settings": (changed("hyper_parameters", to={}), "hyper_parameters: got no tasks, auxiliary"),
    "tasks in a list": (changed("hyper_parameters", "tasks", to=["depth"]), "got ['depth'] as tasks"),
    "a number of auxiliary tasks": (changed("hyper_parameters", "auxiliary", to=3), "got 3 as auxiliary"),
    "a setting of another kind": (changed("hyper_parameters", "weights", to=3), "got {'weights': 3}"),
    "weights of another network": (changed("state_dict", to={"a": torch.ones(1)}), "missing: network.body.0.weight"),
    "no loops": (without("loops"), "loops: got nothing"),
    "loops in a list": (changed("loops", to=[]), "loops: got list"),
    "loops without that of fit": (changed("loops", to={}), "loops: got what a run cannot go on from"),
    "an epoch that is no number": (changed(*PROGRESS, "completed", to="x"), "loops: got what"),
    "no current epoch": (without(*PROGRESS), "loops: got what"),
    "callbacks that are text": (changed("callbacks", to="x"), "callbacks: got str"),
    "a callback's state that is text": (changed("callbacks", "ResumableRandomness", to="x"), "callbacks: got what"),
    "the data's position without its epoch": (changed("RoomsDataModule", to={"a": 3}), "state of the data: got what"),
    "no optimiser": (without("optimizer_states"), "optimizer_states: got nothing"),
    "no optimiser in the list": (changed("optimizer_states", to=[]), "optimizer_states: got none"),
    "an optimiser that is a number": (changed("optimizer_states", to=[3]), "optimizer_states: got what no"),
    "an optimiser's state that is text": (changed(*STATE, 0, to="x"), "optimizer_states: got what no"),
    "moments that are missing": (without(*STATE, 0, "exp_avg"), "optimizer_states: got what a run"),
    "moments of another shape": (changed(*STATE, 0, "exp_avg", to=torch.ones(2)), "optimizer_states: got what a run"),
    "moments that are NaN": (changed(*STATE, 0, "exp_avg", to=torch.tensor(NAN)), "got exp_avg of parameter 0 not fin"),
    "parameters in no group": (changed("optimizer_states", 0, "param_groups", to=[]), "optimizer_states: got what a"),
    "a learning rate that is NaN": (changed(*GROUP, "lr", to=NAN), "got the learning rate not finite"),
    "a learning rate that is text": (changed(*GROUP, "lr", to="x"), "optimizer_states: got what no"),
    "no learning rate": (without(*GROUP, "lr"), "optimizer_states: got what no"),
    "a schedule that is a number": (changed("lr_schedulers", to=[3]), "lr_schedulers: got what"),
    "a schedule's step that is text": (changed("lr_schedulers", 0, "last_epoch", to="x"), "lr_schedulers: got what"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_told_with_the_file_and_the_part(good, tmp_path, capsys, damage):
    change, reason = DAMAGE[damage]
    checkpoint = copy.deepcopy(good)
    change(checkpoint)
    path = tmp_path / "damaged.ckpt"
    torch.save(checkpoint, path)
    assert fit(tmp_path, "--trainer.max_epochs=2", f"--ckpt_path={path}") == 1
    _, *told = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("seqca", "  "))]
    assert told[0].startswith(f"seqca fit: {path}: ") and reason in "\n".join(told)
    assert len(told) == 1 or "missing" in reason


def test_what_is_damaged_shows_with_debug(good, tmp_path):
    torch.save({**good, "loops": {}}, tmp_path / "damaged.ckpt")
    with pytest.raises(CheckpointError, match=r"damaged\.ckpt: loops: got") as error:
        fit(tmp_path, f"--ckpt_path={tmp_path / 'damaged.ckpt'}", "--debug")
    assert isinstance(error.value.__cause__, KeyError)


def test_scores_need_the_weights_alone(good, tmp_path):
    torch.save(
        {key: good[key] for key in ("pytorch-lightning_version", "state_dict", "hyper_parameters")}, tmp_path / "a"
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = ["--config", str(tmp_path / "recipe.yaml"), f"--trainer.logger.save_dir={tmp_path}"]
    assert main(["validate", *recipe, f"--ckpt_path={tmp_path / 'a'}"]) == 0


def test_a_mistake_of_the_run_is_not_put_down_to_its_checkpoint(good, tmp_path, monkeypatch, capsys):
    def step(self: module.MultiTaskModule, batch: Mapping[str, Any], batch_idx: int) -> None:
        raise KeyError("no such label")

    torch.save(good, tmp_path / "good.ckpt")
    monkeypatch.setattr(module.MultiTaskModule, "training_step", step)
    assert fit(tmp_path, f"--ckpt_path={tmp_path / 'good.ckpt'}") == 1
    assert "good.ckpt" not in capsys.readouterr().err.splitlines()[-1]
