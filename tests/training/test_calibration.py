"""Running statistics of batch norm for short runs."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from seqca.training.calibration import CalibrateBatchNorm
from seqca.training.datamodule import RoomsDataModule


def run(batches: int, **trainer: object) -> nn.BatchNorm2d:
    """Calibrates a batch norm of momentum 0.01 on the images 0, 1, 2, … each of one value."""
    norm = nn.BatchNorm2d(3, momentum=0.01)
    module = SimpleNamespace(network=nn.Sequential(norm), device="cpu")
    images = [{"image": torch.full((1, 3, 4, 4), float(value))} for value in range(10)]
    settings = {"state": SimpleNamespace(fn="fit"), "sanity_checking": False} | trainer
    CalibrateBatchNorm(batches).on_validation_start(
        SimpleNamespace(
            datamodule=SimpleNamespace(calibration_dataloader=lambda: images),
            precision_plugin=SimpleNamespace(forward_context=nullcontext),
            **settings,
        ),
        module,
    )
    return norm


def test_running_statistics_become_the_averages_of_the_first_training_batches():
    norm = run(batches=4)
    assert torch.allclose(norm.running_mean, torch.full((3,), 1.5))
    assert torch.allclose(norm.running_var, torch.zeros(3))
    assert norm.momentum == 0.01


@pytest.mark.parametrize(
    "trainer", [{"state": SimpleNamespace(fn="validate")}, {"sanity_checking": True}], ids=["validate", "sanity check"]
)
def test_a_checkpoint_is_scored_with_the_statistics_it_has(trainer):
    assert torch.equal(run(batches=4, **trainer).running_mean, torch.zeros(3))


def test_every_process_averages_over_the_same_batches():
    names = []
    for rank in range(2):
        data = RoomsDataModule(["depth"], size=(32, 32), train_length=4, batch_size=2, num_workers=0)
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank)
        names.append([batch["name"] for batch in data.calibration_dataloader()])
    assert names[0] == names[1]
    assert len({name for batch in names[0] for name in batch}) == 4


def test_batches_must_be_positive():
    with pytest.raises(ValueError, match="batches: got 0, expected at least 1"):
        CalibrateBatchNorm(0)
