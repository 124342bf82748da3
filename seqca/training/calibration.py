"""Running statistics of batch norm for runs that are too short for them."""

from itertools import islice
from typing import cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim.swa_utils import update_bn


class CalibrateBatchNorm(Callback):
    """Before every validation, replaces the running statistics by averages over training batches.

    The backbone's batch norms have momentum 0.01: after 200 steps, 13 % of their running statistics are still the
    initial ones, and the network predicts far worse than it has learned to. Runs of thousands of steps need none of
    this. The batches are the first ones of the training set without augmentation, so that a resumed run sees the same.

    Args:
        batches: how many to average over.
    """

    def __init__(self, batches: int = 16) -> None:
        if batches < 1:
            raise ValueError(f"batches: got {batches}, expected at least 1")
        self.batches = batches

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        loader = trainer.datamodule.calibration_dataloader()  # type: ignore[attr-defined]
        images = (batch["image"].to(pl_module.device) for batch in islice(loader, self.batches))
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            update_bn(images, cast(nn.Module, pl_module.network))
