"""A run that was broken off goes on to the very weights of the unbroken run."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqca.training.cli import main

ROOT = Path(__file__).parents[2]
# Two epochs of three batches; gradients of two batches are accumulated, so that an epoch has two steps, the second of
# which is of one batch.
RECIPE = """
trainer:
  max_epochs: 2
  accelerator: cpu
  devices: 1
  accumulate_grad_batches: 2
  limit_val_batches: 1
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
data:
  class_path: RoomsDataModule
  init_args: {tasks: [depth], size: [32, 32], train_length: 7, val_length: 2, batch_size: 2, num_workers: 0}
last: {every_n_steps: 1}
best: {save_top_k: 0}
panels: {samples: 0}
"""


def command(folder: Path, *more: str) -> list[str]:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    return ["fit", "--config", str(recipe), "--trainer.logger.save_dir", str(folder), *more]


def interrupted_by(number: signal.Signals, epoch: int, batch: int) -> list[str]:
    key = "--trainer.callbacks"
    return [
        f"{key}+=tests.training.interruptions.SignalAt", f"{key}.signal_number={int(number)}", f"{key}.epoch={epoch}",
        f"{key}.batch={batch}",
    ]  # fmt: skip


def checkpoint(folder: Path) -> Path:
    return folder / "rooms" / "version_0" / "checkpoints" / "last.ckpt"


def state(folder: Path) -> dict:
    return torch.load(checkpoint(folder), weights_only=True)


def go_on(folder: Path) -> None:
    main(command(folder, "--ckpt_path", str(checkpoint(folder))))
    assert [path.name for path in (folder / "rooms").iterdir()] == ["version_0"], "a run goes on in its own folder"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("unbroken")
    main(command(folder))
    return state(folder)


def assert_same_training_state(left: dict, right: dict) -> None:
    assert left["global_step"] == right["global_step"] == 4
    assert left["state_dict"].keys() == right["state_dict"].keys()
    for key, value in left["state_dict"].items():
        assert torch.equal(value, right["state_dict"][key]), key
    for mine, other in zip(left["optimizer_states"], right["optimizer_states"], strict=True):
        assert mine["param_groups"] == other["param_groups"]
        for index, moments in mine["state"].items():
            for key, value in moments.items():
                assert torch.equal(value, other["state"][index][key]), (index, key)


def test_a_killed_run_goes_on_to_the_weights_of_the_unbroken_run(unbroken, tmp_path):
    killed = subprocess.run(
        [sys.executable, "-m", "seqca", *command(tmp_path), *interrupted_by(signal.SIGKILL, epoch=1, batch=2)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert state(tmp_path)["global_step"] == 3
    go_on(tmp_path)
    assert_same_training_state(state(tmp_path), unbroken)


@pytest.mark.parametrize(
    ("number", "batch", "steps"),
    [(signal.SIGINT, 0, 1), (signal.SIGTERM, 0, 1), (signal.SIGTERM, 1, 1), (signal.SIGINT, 2, 2)],
    ids=[
        "Ctrl-C while gradients are accumulated", "SIGTERM while gradients are accumulated", "SIGTERM",
        "Ctrl-C at the end of an epoch",
    ],
)  # fmt: skip
def test_an_interrupted_run_ends_its_step_saves_says_how_to_go_on_and_goes_on(
    unbroken, tmp_path, capsys, number, batch, steps
):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as end:
        main(command(tmp_path, *interrupted_by(number, epoch=0, batch=batch)))
    assert end.value.code == 128 + number, "so that nothing goes on behind && as if training were done"
    assert f"--ckpt_path {checkpoint(tmp_path)}" in capsys.readouterr().out
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert state(tmp_path)["global_step"] == steps
    go_on(tmp_path)
    assert_same_training_state(state(tmp_path), unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_validation_under_way_is_finished_before_the_run_is_saved_and_ends(unbroken, tmp_path, number):
    key = "--trainer.callbacks"
    signalled = [f"{key}+=tests.training.interruptions.SignalInValidation", f"{key}.signal_number={int(number)}"]
    with pytest.raises(SystemExit) as end:
        main(command(tmp_path, "--data.val_length=4", "--trainer.limit_val_batches=2", *signalled))
    assert end.value.code == 128 + number
    assert state(tmp_path)["global_step"] == 2
    go_on(tmp_path)
    assert_same_training_state(state(tmp_path), unbroken)
