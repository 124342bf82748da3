"""`seqca fit`, `validate` and `test` from the command line to the files they leave behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import seqca
from seqca.data.rooms import ROOMS_CLASSES
from seqca.inference.restore import load_network
from seqca.tasks import primary_scores
from seqca.training.cli import main
from seqca.training.module import summed_log_scores

ROOT = Path(__file__).parents[2]
TINY = """
trainer: {max_epochs: 1, accelerator: cpu, devices: 1, num_sanity_val_steps: 0, log_every_n_steps: 1}
data:
  class_path: RoomsDataModule
  init_args:
    {tasks: [semseg, depth], size: [32, 32], train_length: 8, val_length: 3, batch_size: 2, num_workers: 0}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="module")
def run(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes, two steps each."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = ["--trainer.devices=2", "--trainer.strategy=ddp", f"--trainer.logger.save_dir={folder}"]
    fit = subprocess.run(
        [sys.executable, "-m", "seqca", "fit", "--config", recipe, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert fit.returncode == 0, fit.stderr
    return folder / "rooms" / "version_0"


def test_two_processes_train(run):
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert all(value.isfinite().all() for value in last["state_dict"].values())
    parameters = len(last["optimizer_states"][0]["param_groups"][0]["params"])
    assert len(last["optimizer_states"][0]["state"]) == parameters, "every parameter was updated"


def test_a_run_leaves_settings_checkpoints_scalars_and_panels(run):
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    settings = yaml.safe_load((run / "fit.yaml").read_text())
    assert settings["data"]["init_args"]["tasks"] == ["semseg", "depth"]
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"loss", "loss/semseg", "loss/depth", "learning_rate", "val/score", "val/depth/rmse"} <= scalars
    assert len(events.Tags()["images"]) == 2, "one panel for each sample of the first process's first batch"


def test_the_network_and_the_names_of_classes_come_back_from_a_checkpoint(run):
    network, class_names = load_network(run / "checkpoints" / "best.ckpt")
    assert network.tasks == {"semseg": len(ROOMS_CLASSES), "depth": 1}
    assert class_names["semseg"] == list(ROOMS_CLASSES)


def test_one_process_finds_the_score_that_two_found(run, recipe):
    checkpoint = run / "checkpoints" / "best.ckpt"
    main(["validate", "--config", recipe, "--ckpt_path", str(checkpoint)])
    scores = json.loads((run / "val_scores.json").read_text())
    callbacks = torch.load(checkpoint, weights_only=True)["callbacks"]
    best = next(state for key, state in callbacks.items() if key.startswith("BestCheckpoint"))
    assert summed_log_scores(scores, primary_scores(["semseg", "depth"])) == pytest.approx(
        float(best["best_model_score"]), rel=1e-4
    )


def test_the_file_of_scores_says_where_they_come_from_and_how_they_compare(run, recipe, tmp_path):
    single = {"semseg/mIoU": 0.02, "depth/rmse": 3.0}
    (tmp_path / "single.json").write_text(json.dumps(single))
    checkpoint = run / "checkpoints" / "best.ckpt"
    main([
        "test", "--config", recipe, "--data.test_length=2", f"--ckpt_path={checkpoint}",
        f"--model.single_task_scores=[{tmp_path / 'single.json'}]",
    ])  # fmt: skip
    scores = json.loads((run / "test_scores.json").read_text())
    about = scores.pop("about")
    gains = scores["semseg/mIoU"] / 0.02 - 1, 1 - scores["depth/rmse"] / 3.0
    assert about.pop("delta_m") == pytest.approx(100 * sum(gains) / 2)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert (about.pop("commit") or "").removesuffix("+") == head
    assert about == {"protocol": "mtinet", "version": seqca.__version__, "checkpoint": str(checkpoint)}


def test_mixed_precision_clipping_and_accumulation_are_flags(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["precision=bf16-mixed", "gradient_clip_val=1", "accumulate_grad_batches=2", "fast_dev_run=2"]
    main(["fit", "--config", recipe, "--data.tasks=[depth]", *(f"--trainer.{flag}" for flag in flags)])
    assert not list(tmp_path.iterdir()), "fast_dev_run leaves nothing behind"


@pytest.mark.parametrize("name", ["rooms", "rooms_single_task", "rooms_ablation", "demo"])
def test_print_config_shows_every_setting_of_a_recipe(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(ROOT / "configs" / f"{name}.yaml"), "--data.seed=5", "--print_config"])
    assert stopped.value.code == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["data"]["init_args"]["seed"] == 5
    assert {"precision", "gradient_clip_val", "accumulate_grad_batches", "num_nodes"} <= settings["trainer"].keys()
    assert {"optimizer", "weights", "backbone", "pretrained", "drop_path", "decay_power"} <= settings["model"].keys()
    assert "tasks" not in settings["model"], "tasks are given once, to the data"


def test_an_unknown_task_is_named_with_those_there_are(recipe, capsys):
    with pytest.raises((SystemExit, ValueError)) as stopped:
        main(["fit", "--config", recipe, "--data.tasks=[semseg, depht]"])
    assert "depht" in capsys.readouterr().err + str(stopped.value)
