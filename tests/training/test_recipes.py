"""Every recipe of the published data sets runs from training to prediction, on the small archives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from seqca.inference.predict import main as predict
from seqca.protocols import MTINET
from seqca.training.archives import NYUDv2DataModule, PASCALContextDataModule
from seqca.training.cli import main
from seqca.training.module import MultiTaskModule
from tests.data.files import root

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem.startswith(("nyud", "pascal")))
LESS = [
    "--data.size=[32, 64]", "--data.batch_size=2", "--data.num_workers=0", "--model.pretrained=false",
    "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip


def settings(recipe: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())


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
        assert set(predictions.files) == set(settings(recipe)["data"]["init_args"]["tasks"])
    (scores,) = folder.rglob("test_scores.json")
    return json.loads(scores.read_text())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_tests_and_predicts(recipe, tmp_path):
    scores = run(recipe, tmp_path)
    tasks = settings(recipe)["data"]["init_args"]["tasks"]
    assert {key.split("/")[0] for key in scores if "/" in key} == set(tasks)
    assert ("edge/odsF" in scores) == ("edge" in tasks)
    assert scores["about"]["protocol"] == "mtinet"
    assert Path(scores["about"]["checkpoint"]).name == "last.ckpt"


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
def test_a_recipe_keeps_to_its_protocol_s_schedule(recipe):
    recipe_settings = settings(recipe)
    model, schedule = recipe_settings["model"], MTINET.schedule
    assert recipe_settings["data"]["init_args"]["protocol"] == "mtinet"
    assert model["decay_interval"] == schedule.decay_interval
    assert model["optimizer"]["init_args"] == {"lr": schedule.learning_rate, "weight_decay": schedule.weight_decay}


@pytest.mark.parametrize("kind", [NYUDv2DataModule, PASCALContextDataModule])
def test_without_a_root_the_message_says_where_the_archive_is_documented(kind):
    with pytest.raises(ValueError, match=r"root: got nothing, expected the folder of the archive .*docs/data\.md"):
        kind()


def test_a_learning_rate_that_decays_by_epoch_needs_their_number(monkeypatch):
    from types import SimpleNamespace

    module = MultiTaskModule({"depth": 1}, decay_interval="epoch")
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(estimated_stepping_batches=900, max_epochs=10))
    schedule = module.configure_optimizers()["lr_scheduler"]
    assert schedule["interval"] == "epoch"
    assert schedule["scheduler"].lr_lambdas[0](5) == pytest.approx(0.5**0.9)
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(estimated_stepping_batches=900, max_epochs=-1))
    with pytest.raises(ValueError, match="max_epochs"):
        module.configure_optimizers()
