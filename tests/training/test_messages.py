"""What `seqca fit` tells about mistakes: a screen at most, what was wrong last; and whose defaults hold."""

import logging
import re
import signal
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from seqca.cli import main as command
from seqca.files import hold, let_go
from seqca.messages import said
from seqca.training import module
from seqca.training.cli import main
from seqca.training.datamodule import RoomsDataModule
from tests.training.tiny_runs import RECIPE, TinyNet, last

OWN_DATA = """
from seqca.data.rooms import Rooms
from seqca.training.datamodule import DenseDataModule

class Mine(DenseDataModule):
    def __init__(self, tasks=("depth",), auxiliary=(), batch_size: int = 3, num_workers: int = 0, flip: float = 0.25):
        super().__init__(tasks, auxiliary, batch_size, num_workers)

    def dataset(self, split):
        return Rooms(split, 7, size=(32, 32), tasks=self.labels)

class Broken(Mine):
    def dataset(self, split):
        raise KeyError("no such column")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is run: with a recipe and data of one's own, and a network of a few weights."""
    (tmp_path / "own_data.py").write_text(OWN_DATA)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "rooms.yaml").write_text("data: {class_path: RoomsDataModule, init_args: {batch_size: 5}}")
    (tmp_path / "mine.yaml").write_text("data: {class_path: own_data.Mine, init_args: {auxiliary: [edge]}}")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "linked.yaml").write_text("data: data.yaml")  # a path from the file's own folder
    (tmp_path / "recipes" / "data.yaml").write_text("{class_path: own_data.Mine, init_args: {flip: 0.75}}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "SequentialCrossAttentionNet", TinyNet)
    return tmp_path


MINE = {"tasks": ["depth"], "auxiliary": [], "batch_size": 3, "num_workers": 0, "flip": 0.25}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--data=own_data.Mine"], {}),
        (["--data", "own_data.Mine"], {}),
        (["--data.class_path=own_data.Mine"], {}),
        (["--data.flip=0.1", "--data=own_data.Mine"], {"flip": 0.1}),
        (["--data=own_data.Mine", "--data.batch_size=2"], {"batch_size": 2}),
        (["--config=mine.yaml"], {"auxiliary": ["edge"]}),
        (["--data.flip=0.1", "--config", "mine.yaml"], {"auxiliary": ["edge"], "flip": 0.1}),
        (["--config", "rooms.yaml", "--data=own_data.Mine"], {"batch_size": 5}),
        (["--config", "rooms.yaml", "--config", "mine.yaml"], {"batch_size": 5, "auxiliary": ["edge"]}),
        (["--config", "recipes/linked.yaml"], {"flip": 0.75}),
        (["--data", f"{{class_path: own_data.Mine, init_args: {{flip: 0.5}}}}  #{'-' * 5000}"], {"flip": 0.5}),
    ],
)
def test_what_is_not_given_comes_from_the_class_that_is_named(folder, capsys, arguments, given):
    with pytest.raises(SystemExit) as end:
        main(["fit", *arguments, "--print_config"])
    assert end.value.code == 0
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data["class_path"] == "own_data.Mine"
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in data["init_args"].items()} == MINE | given


def test_where_no_class_is_named_the_data_are_rooms(folder, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--data.tasks=[edge]", "--print_config"])
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data["class_path"].endswith("RoomsDataModule")
    assert data["init_args"]["tasks"] == ["edge"] and data["init_args"]["batch_size"] == 8


@pytest.mark.parametrize("processes", [1, 2])
def test_fewer_samples_than_a_batch_are_told_with_both_numbers(processes):
    data = RoomsDataModule(["depth"], size=(32, 32), train_length=6, batch_size=8)
    data._share = lambda: (processes, 0)
    expected = {1: "6 training samples, expected", 2: "3 training samples in each of 2 processes, expected"}
    with pytest.raises(ValueError, match=f"batch_size: got 8 with {expected[processes]}"):
        data.train_dataloader()


MISTAKES = {
    "fewer samples than a batch": (["--data.batch_size=8"], 1, "batch_size: got 8 with 6 training samples"),
    "an unknown key": (["--trainer.max_epoxs=3"], 2, "trainer.max_epoxs"),
    "an unknown key of the data": (["--data.bach_size=3"], 2, "bach_size"),
    "text for a number": (["--trainer.max_epochs=three"], 2, "three"),
    "a recipe that is not there": (["--config", "nowhere.yaml"], 2, "nowhere.yaml"),
    "a data module that is not there": (["--data=nowhere.Data"], 2, "nowhere.Data"),
    "an unknown task": (["--data.tasks=[depht]"], 1, "depht"),
    "a data set without samples": (["--data.train_length=0"], 1, "length"),
    "a checkpoint that is not there": (["--ckpt_path=nowhere.ckpt"], 1, "nowhere.ckpt"),
    "a checkpoint that is a picture": (
        ["--ckpt_path=own_data.py"],
        1,
        "own_data.py, which is damaged or no checkpoint",
    ),
    "an unknown backend of processes": (["--trainer.strategy=ddq"], 1, "ddq"),
    "data that break": (["--data=own_data.Broken"], 1, "no such column"),
    "a name of Lightning's for a checkpoint": (["--ckpt_path=last"], 1, "checkpoint: got last, which is not there"),
    "a device for a checkpoint": (["--ckpt_path=/dev/null"], 1, "checkpoint: got /dev/null, a device"),
    "a batch of nothing": (["--data.batch_size=0"], 1, "batch_size: got 0, expected an integer, at least 1"),
    "less than no processes": (["--data.num_workers=-1"], 1, "num_workers: got -1, expected an integer, at least 0"),
    "a probability above 1": (["--data.flip=2"], 1, "flip: got 2.0, expected a probability"),
    "a run without end": (["--trainer.max_epochs=-1"], 1, "max_epochs"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_on_one_screen_without_a_traceback(folder, capsys, mistake):
    arguments, status, reason = MISTAKES[mistake]
    before = ["--config", "recipe.yaml"] if "--config" not in arguments else []
    try:
        found = command(["fit", *before, *arguments])
    except SystemExit as end:
        found = end.code
    printed = capsys.readouterr().err
    assert found == status, printed
    lines = [line for line in printed.splitlines() if not line.startswith(("INFO", "GPU", "TPU", "HPU"))]
    assert reason in "\n".join(lines[-18:]) and "Traceback" not in printed and "usage:" not in printed
    assert len(lines) <= 20


def test_debug_shows_the_traceback(folder):
    with pytest.raises(KeyError, match="no such column") as error:
        command(["fit", "--config", "recipe.yaml", "--data=own_data.Broken", "--debug"])
    assert any(frame.name == "dataset" for frame in error.traceback)


def test_the_message_says_where(folder, capsys):
    assert command(["fit", "--config", "recipe.yaml", "--data=own_data.Broken"]) == 1
    *_, place, reason = capsys.readouterr().err.splitlines()
    assert re.match(r"seqca fit: KeyError in own_data\.py, line \d+ \(--debug", place)
    assert "no such column" in reason


def test_a_full_disk_is_what_the_last_line_says(folder, capsys, monkeypatch):
    save = torch.save

    def save_on_a_full_disk(content: object, file: object) -> None:
        with Path("/dev/full").open("wb") as full:
            save(content, full)

    monkeypatch.setattr(torch, "save", save_on_a_full_disk)
    assert command(["fit", "--config", "recipe.yaml"]) == 1
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"seqca fit: No space left on device.*\.ckpt", last_line)


def test_a_run_and_its_continuation_make_no_noise(folder, capfd, caplog, recwarn):
    with caplog.at_level(logging.INFO):
        shown = ["--trainer.enable_progress_bar=true", "--trainer.enable_model_summary=true"]
        recipe = ["--config", "recipe.yaml", "--trainer.logger.save_dir=.", *shown]
        assert command(["fit", *recipe, "--trainer.max_epochs=1"]) == 0
        assert command(["fit", *recipe, "--trainer.max_epochs=2", "--ckpt_path", str(last(Path()))]) == 0
    printed = caplog.text + "".join(capfd.readouterr()) + "".join(str(warning.message) for warning in recwarn)
    assert "Total params" in printed and f"The checkpoints are in {last(Path()).parent}" in printed
    for noise in (
        "weights_only",
        "💡",
        "Total Flops",
        "v_num=on_",
        "not writable",
        "dirpath has changed",
        "exists and is not empty",
        "LeafSpec",
        "args parameter",
    ):
        assert noise not in printed, noise


@pytest.mark.parametrize("command_name", ["validate", "test"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_a_signal_stops_says_so_last(folder, capsys, command_name, number):
    start = {"validate": "SignalInValidation", "test": "SignalInTest"}[command_name]
    key = "--trainer.callbacks"
    signalled = [f"{key}+=tests.training.interruptions.{start}", f"{key}.signal_number={int(number)}"]
    data = ["--data.val_length=4", "--data.test_length=4", "--trainer.logger.save_dir=."]
    with pytest.raises(SystemExit) as end:
        command([command_name, "--config", "recipe.yaml", *data, *signalled])
    assert end.value.code == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == f"seqca {command_name}: stopped by {number.name}, without scores"
    assert not list(folder.rglob("*_scores.json"))


@pytest.mark.parametrize("place", ["no logger", "a version that is given", "a folder for the best"])
def test_no_run_replaces_the_checkpoints_of_another(folder, capsys, place):
    settings = {
        "no logger": ["--trainer.logger=false"],
        "a version that is given": ["--trainer.logger.save_dir=.", "--trainer.logger.version=0"],
        "a folder for the best": ["--trainer.logger.save_dir=.", "--best.dirpath=kept"],
    }[place]
    run = ["fit", "--config", "recipe.yaml", "--trainer.max_epochs=1", *settings]
    assert command(run) == 0
    kept = {path: path.read_bytes() for path in folder.rglob("*.ckpt")}
    assert {path.name for path in kept} == {"last.ckpt", "best.ckpt"}
    assert command([*run, "--seed_everything=1"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"(last|best)\.ckpt: got a checkpoint of another run, expected none: --ckpt_path ", said)
    assert {path: path.read_bytes() for path in kept} == kept
    (path,) = (path for path in kept if path.name == "last.ckpt")
    assert command([*run, "--trainer.max_epochs=2", f"--ckpt_path={path}"]) == 0, "its own run may"


def test_a_folder_that_a_run_under_way_writes_to_is_left_to_it(folder, capsys):
    run = ["fit", "--config", "recipe.yaml", "--trainer.logger.save_dir=."]
    assert command([*run, "--trainer.max_epochs=1"]) == 0
    before = last(Path()).read_bytes()
    held = hold(last(Path()).parent)  # as the run that writes to it does
    assert command([*run, f"--ckpt_path={last(Path())}"]) == 1
    assert "checkpoints: got a folder that a run under way writes to" in capsys.readouterr().err.splitlines()[-1]
    assert last(Path()).read_bytes() == before
    let_go(held)
    assert command([*run, f"--ckpt_path={last(Path())}"]) == 0
    let_go(hold(last(Path()).parent))


def test_scores_of_an_untrained_network_are_called_so(folder, capsys):
    assert command(["validate", "--config", "recipe.yaml", "--trainer.logger.save_dir=."]) == 0
    assert "seqca validate: without --ckpt_path the network is untrained" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["relative", "absolute", "from elsewhere"])
def test_a_run_that_goes_on_does_not_replace_the_best_checkpoint_by_a_worse_one(folder, monkeypatch, where):
    scores = iter([-15.7, -17.6, -17.0])
    monkeypatch.setattr(module.MultiTaskModule, "overall", lambda *_: next(scores))
    recipe = ["--config", str(folder / "recipe.yaml"), "--trainer.logger.save_dir=runs"]
    assert command(["fit", *recipe, "--trainer.max_epochs=1"]) == 0
    best = (folder / last(Path("runs"))).with_name("best.ckpt")
    before = best.read_bytes()
    path = last(Path("runs"))
    if where != "relative":
        path = path.absolute()
    if where == "from elsewhere":
        (folder / "elsewhere").mkdir()
        monkeypatch.chdir(folder / "elsewhere")
    assert command(["fit", *recipe, "--ckpt_path", str(path)]) == 0
    assert next(scores, None) is None, "it was validated twice more"
    assert best.read_bytes() == before
    assert torch.load(folder / last(Path("runs")), weights_only=True)["epoch"] == 2


@pytest.mark.parametrize(
    "advice",
    [
        "(1) Re-running `torch.load` with `weights_only` set to `False` will likely succeed",
        "please use weights_only=False if you trust the file",
        "use `torch.serialization.add_safe_globals([numpy.dtype])` to allowlist this",
    ],
)
def test_advice_to_load_without_safety_is_never_passed_on(advice: str) -> None:
    assert said(RuntimeError(f"file.ckpt: cannot be read.\n{advice}")) == "file.ckpt: cannot be read."


class Anything:
    """What a checkpoint does not hold."""


@pytest.mark.parametrize("kind", ["another class", "no checkpoint", "torchscript"])
def test_what_torch_says_of_a_file_is_told_without_its_advice(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file.ckpt"
    if kind == "another class":
        torch.save({"state": Anything()}, file)
        expected = r"^the file holds [\w.]*Anything, expected tensors and plain data alone"
    elif kind == "no checkpoint":
        file.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(500))
        expected = "^the file is damaged or no checkpoint of torch, expected a file written by torch.save$"
    else:
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(file))
        expected = "^the file is damaged or no checkpoint of torch, expected a file written by torch.save$"
    with warnings.catch_warnings(), pytest.raises(Exception) as caught:
        warnings.simplefilter("ignore")
        torch.load(file, weights_only=True)
    assert re.search(expected, said(caught.value)), said(caught.value)


def test_a_refusal_to_load_without_safety_is_told() -> None:
    message = "weights_only: got False, expected True: anything but weights and plain data can run code"
    assert said(ValueError(message)) == message
