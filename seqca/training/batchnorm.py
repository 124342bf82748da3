"""Batch-norm statistics of the final weights."""

from lightning import Callback, LightningModule, Trainer
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset


class PreciseBatchNorm(Callback):
    """Measures the statistics of every batch norm anew with the final weights, when training has ended.

    Running statistics lag behind the weights: with a momentum of 0.01, as in the backbone, an eighth of them is still
    their initial value after 200 steps. Short runs are scored better with statistics taken over some training samples
    without augmentation (Wu and Johnson 2021, "Rethinking Batch in BatchNorm", section 3). `last.ckpt` holds them;
    `best.ckpt` is what was validated.

    Args:
        samples: how many of the first training samples are looked at, in batches of the size of training.
    """

    def __init__(self, samples: int = 128) -> None:
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        self.samples = samples

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step < trainer.estimated_stepping_batches:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.dataset("train")
        first = Subset(dataset, range(min(self.samples, len(dataset))))
        loader = DataLoader(first, batch_size=data.batch_size, drop_last=len(first) > data.batch_size)
        update_bn((batch["image"] for batch in loader), pl_module.network, device=pl_module.device)
