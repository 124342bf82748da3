"""Statistics of batch norms belong to the final weights, and are measured when training has ended."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from seqca.training.batchnorm import PreciseBatchNorm


class Images:
    """Six samples of one pixel; the first four have mean 2.5 and unbiased variance 5/3."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index >= len(self):
            raise IndexError
        return {"image": torch.full((1, 1, 1), float([1, 2, 3, 4, 100, 100][index]))}


def trained(step: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(1, momentum=0.01)
    norm.eval()
    data = SimpleNamespace(batch_size=4, dataset=lambda split: Images())
    trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=10, datamodule=data)
    module = SimpleNamespace(network=norm, device=torch.device("cpu"))
    PreciseBatchNorm(samples=4).on_train_epoch_end(trainer, module)
    return norm


def test_statistics_are_those_of_the_first_samples_when_training_has_ended():
    norm = trained(step=10)
    assert norm.running_mean.item() == pytest.approx(2.5)
    assert norm.running_var.item() == pytest.approx(5 / 3)
    assert norm.momentum == 0.01 and not norm.training


def test_before_the_end_nothing_is_touched():
    norm = trained(step=9)
    assert norm.running_mean.item() == 0 and norm.running_var.item() == 1
