"""Every recipe of the published data sets runs from training to prediction, on the small archives."""

import json
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer

from seqca.inference.predict import main as predict
from seqca.training import module
from seqca.training.archives import NYUDv2DataModule, PASCALContextDataModule
from seqca.training.cli import SeqcaCLI, main
from seqca.training.module import MultiTaskModule
from tests.data.files import CLASSES, root
from tests.training.tiny_runs import TinyNet

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem.startswith(("nyud", "pascal")))
LESS = [
    "--data.size=[32, 64]", "--data.batch_size=2", "--data.num_workers=0", "--model.pretrained=false",
    "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip


def commands(pattern: str) -> list[tuple[str, ...]]:
    """The recipe and the options of every `seqca fit` in the comments that recipes begin with."""
    found = []
    for path in sorted(CONFIGS.glob(pattern)):
        comment = "\n".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
        for line in comment.replace("\\\n", " ").splitlines():
            if "seqca fit" in line:
                _, _, config, file, *options = shlex.split(line[line.index("seqca fit") :])
                assert (config, file) == ("--config", f"configs/{path.name}")
                found.append((path.stem, *options))
    return found


COMMANDS = [
    (recipe, *(option for option in options if not option.startswith("--data.root")))
    for pattern in ("nyud*.yaml", "pascal*.yaml")
    for recipe, *options in commands(pattern)
]


def settings(recipe: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())


def tasks_of(recipe: str, *options: str) -> list[str]:
    given = [yaml.safe_load(option.partition("=")[2]) for option in options if option.startswith("--data.tasks=")]
    return given[0] if given else settings(recipe)["data"]["init_args"]["tasks"]


def arguments(recipe: str, folder: Path, protocol: str = "mtinet") -> list[str]:
    data = root(recipe.partition("_")[0], protocol)
    given = [f"--config={CONFIGS / f'{recipe}.yaml'}", f"--data.root={data}", f"--trainer.logger.save_dir={folder}"]
    # `invpt` pads what it evaluates and resizes nothing, so that its size has to hold the largest picture.
    size = ["--data.size=[64, 64]"] if protocol == "invpt" else []
    return [*given, *LESS, *size, f"--data.protocol={protocol}"]


def run(recipe: str, folder: Path, protocol: str = "mtinet") -> dict:
    """Fits, tests and predicts; returns the scores."""
    given = arguments(recipe, folder, protocol)
    main(["fit", *given])
    (checkpoint,) = folder.rglob("last.ckpt")
    main(["test", *given, f"--ckpt_path={checkpoint}"])
    (image, *_) = sorted(root(recipe.partition("_")[0], protocol).rglob("*.[jp][pn]g"))
    assert predict(["--ckpt", str(checkpoint), "--images", str(image), "--out", str(folder / "out")]) == 0
    (arrays,) = (folder / "out").glob("*.npz")
    with np.load(arrays) as predictions:
        assert set(predictions.files) == set(tasks_of(recipe))
    (scores,) = folder.rglob("test_scores.json")
    return json.loads(scores.read_text())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_tests_and_predicts(recipe, tmp_path):
    scores = run(recipe, tmp_path)
    tasks = tasks_of(recipe)
    assert {key.split("/")[0] for key in scores if "/" in key} == set(tasks)
    assert ("edge/odsF" in scores) == ("edge" in tasks)
    assert scores["about"]["protocol"] == "mtinet"
    assert Path(scores["about"]["checkpoint"]).name == "last.ckpt"


OTHER_COMMANDS = [
    command for command in COMMANDS if tasks_of(*command) != tasks_of(command[0]) or "cross_" in str(command)
]


@pytest.mark.parametrize("command", OTHER_COMMANDS, ids=" ".join)
def test_every_other_command_of_a_recipe_trains_and_validates(command, tmp_path, monkeypatch):
    models = []
    monkeypatch.setattr(MultiTaskModule, "on_validation_epoch_end", lambda model: models.append(model))
    recipe, *options = command
    main(["fit", *arguments(recipe, tmp_path), *options, "--trainer.fast_dev_run=1"])
    (model,) = models
    assert list(model.network.tasks) == tasks_of(*command) and model.global_step == 1
    exchanges = {name for name in ("cross_task", "cross_scale") if model.hparams[name]}
    assert exchanges == {"cross_task", "cross_scale"} - {o[8:-6] for o in options if o.startswith("--model.cross")}


@pytest.mark.parametrize("recipe", ["nyud_four_tasks", "pascal_five_tasks"])
def test_a_recipe_runs_under_the_other_protocol_by_one_setting(recipe, tmp_path):
    scores = run(recipe, tmp_path, "invpt")
    assert scores["about"]["protocol"] == "invpt"
    assert ("sal/maxF" in scores and "sal/mIoU" not in scores) or recipe.startswith("nyud")
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert saved["tasks"].get("sal", 2) == 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_begins_with_its_command_and_says_what_is_published(recipe):
    text = (CONFIGS / f"{recipe}.yaml").read_text()
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert f"seqca fit --config configs/{recipe}.yaml --data.root=/data/" in comment
    assert "Published" in comment


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_schedule_of_its_protocol_but_for_the_length_that_the_paper_gives_another(recipe):
    given = settings(recipe)
    assert given["data"]["init_args"]["protocol"] == "mtinet"
    assert not {"decay_interval", "decay_power", "optimizer"} & given["model"].keys()
    assert given["trainer"].get("max_epochs") == (80 if recipe == "pascal_small" else None)


def test_the_baselines_and_the_ablation_of_a_recipe_are_complete():
    for data in ("nyud", "pascal"):
        single = [tasks_of(*command) for command in COMMANDS if command[0] == f"{data}_single_task"]
        assert single == [[task] for task in CLASSES[data].available]
    exchanges = [[o for o in command if "cross_" in o] for command in COMMANDS if command[0] == "nyud_ablation"]
    without_ctam, without_csam = "--model.cross_task=false", "--model.cross_scale=false"
    assert exchanges == [[without_ctam, without_csam], [without_csam], [without_ctam], []]


@pytest.fixture
def started(monkeypatch) -> list[tuple[Trainer, MultiTaskModule]]:
    """Runs that would train."""
    runs: list[tuple[Trainer, MultiTaskModule]] = []
    monkeypatch.setattr(SeqcaCLI, "_run_subcommand", lambda cli, name: runs.append((cli.trainer, cli.model)))
    return runs


def without_length(recipe: str, folder: Path, protocol: str) -> list[str]:
    return [given for given in arguments(recipe, folder, protocol) if "max_epochs" not in given]


@pytest.mark.parametrize(
    ("protocol", "epochs", "steps", "interval", "rate", "decay"),
    [("mtinet", 100, -1, "epoch", 1e-4, 1e-4), ("invpt", None, 40_000, "step", 2e-5, 1e-6)],
)
def test_one_setting_chooses_the_schedule(protocol, epochs, steps, interval, rate, decay, started, tmp_path):
    main(["fit", *without_length("nyud", tmp_path, protocol)])
    ((trainer, model),) = started
    assert (trainer.max_epochs, trainer.max_steps, model.decay_interval) == (epochs, steps, interval)
    (group,) = model.make_optimizer(model.parameters()).param_groups
    assert (group["lr"], group["weight_decay"]) == (rate, decay)


def test_what_is_given_stands_before_the_protocol_s_schedule(started, tmp_path):
    sgd = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01", "--model.optimizer.momentum=0.9"]
    main(["fit", *without_length("pascal_single_task", tmp_path, "invpt"), *sgd, "--trainer.max_epochs=60"])
    main(["fit", *without_length("pascal_small", tmp_path, "mtinet"), "--trainer.max_steps=7"])
    (single, model), (small, _) = started
    assert (single.max_epochs, single.max_steps) == (60, -1) and (small.max_epochs, small.max_steps) == (80, 7)
    (group,) = model.make_optimizer(model.parameters()).param_groups
    assert (group["lr"], group["momentum"]) == (0.01, 0.9)


@pytest.mark.parametrize("kind", [NYUDv2DataModule, PASCALContextDataModule])
def test_without_a_root_the_message_says_where_the_archive_is_documented(kind):
    with pytest.raises(ValueError, match=r"root: got nothing, expected the folder of the archive .*docs/data\.md"):
        kind()


@pytest.mark.parametrize("command", commands("rooms*.yaml"), ids=" ".join)
def test_every_command_of_the_rooms_recipes_begins_its_run(command, started, tmp_path):
    recipe, *options = command
    main(["fit", f"--config={CONFIGS / f'{recipe}.yaml'}", f"--trainer.logger.save_dir={tmp_path}", *options])
    ((trainer, model),) = started
    assert list(model.network.tasks) == tasks_of(*command)
    assert trainer.max_epochs == 40 and model.decay_interval == "step"


@pytest.mark.parametrize("protocol", ["mtinet", "invpt"])
def test_a_run_whose_steps_are_given_decays_over_them_by_epoch_or_step_as_its_protocol_says(
    protocol, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "SequentialCrossAttentionNet", TinyNet)
    given = without_length("nyud_single_task", tmp_path, protocol)
    main(["fit", *given, "--data.tasks=[depth]", "--data.batch_size=1", "--trainer.max_steps=3"])
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    (group,) = torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"]
    # The fourth step would be in the second of two epochs of two steps.
    assert group["lr"] == pytest.approx(1e-4 * 0.5**0.9 if protocol == "mtinet" else 0)


def test_an_interrupted_run_with_workers_and_a_cache_goes_on_to_the_weights_of_the_unbroken_run(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SequentialCrossAttentionNet", TinyNet)

    def fit(name: str, *more: str) -> dict:
        options = ["--data.tasks=[depth]", "--data.batch_size=1", "--data.num_workers=2", "--data.cache=true"]
        given = [*arguments("nyud_single_task", tmp_path / name), *options, "--trainer.max_epochs=3", *more]
        try:
            main(["fit", *given])
        except SystemExit as end:
            assert end.code == 128 + signal.SIGTERM
        (checkpoint,) = (tmp_path / name).rglob("last.ckpt")
        return {"path": checkpoint, **torch.load(checkpoint, weights_only=True)}

    key = "--trainer.callbacks"
    interrupted = fit(
        "broken", f"{key}+=tests.training.interruptions.SignalAt", f"{key}.signal_number={int(signal.SIGTERM)}",
        f"{key}.epoch=1", f"{key}.batch=0",
    )  # fmt: skip
    assert interrupted["global_step"] == 3, "of six"
    resumed, unbroken = fit("broken", f"--ckpt_path={interrupted['path']}"), fit("unbroken")
    assert resumed["global_step"] == unbroken["global_step"] == 6
    assert any(
        not torch.equal(interrupted["state_dict"][name], value) for name, value in unbroken["state_dict"].items()
    )
    assert all(torch.equal(resumed["state_dict"][name], value) for name, value in unbroken["state_dict"].items())
