"""Random numbers of training that a resumed run draws again."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from seqca.data.transforms import derive_seed


class ResumableRandomness(Callback):
    """Seeds torch's generators before every batch from (the run's seed, epoch, batch, process).

    What a step draws (drop path) then depends on which step it is and not on what was drawn before: a run that goes
    on from a checkpoint draws what the unbroken run would have drawn, in each of several processes, and nothing but
    the run's seed has to be kept. The seed is the one given to `seed_everything`.
    """

    seed: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.seed is None:  # else a checkpoint brought it
            self.seed = torch.initial_seed()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert self.seed is not None
        torch.manual_seed(derive_seed(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = state_dict["seed"]
