"""Writing checkpoints so that neither a crash nor an interruption loses more than the step under way."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

CHECKPOINTS = "checkpoints"  # the folder in a run's folder, as Lightning calls it
LAST = "last.ckpt"

say = rank_zero_only(print)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a checkpoint file is either whole or not there.

    Lightning's own way goes through the folder for temporary files, which may be another file system, where renaming
    becomes copying.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


class LastCheckpoint(Callback):
    """Keeps `checkpoints/last.ckpt` in the run's folder, from which `--ckpt_path` goes on exactly.

    It is written after every epoch, every `every_n_steps` optimiser steps, and when the run is interrupted: Ctrl-C
    and SIGTERM let the step under way end, and the validation if one is under way, then save and stop. A second
    Ctrl-C stops at once, without saving.

    Args:
        every_n_steps: steps between two writings within an epoch.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be positive, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._interrupted = False
        self._step_before = 0
        self._previous_handler: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, signum: int, frame: Any) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        say("\nInterrupted: what is under way, a step or a validation, is finished and saved. Once more stops at once.")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Gradients being accumulated are in no checkpoint, and after an epoch's last batch the epoch's end follows.
        if trainer.global_step == self._step_before or trainer.is_last_batch:
            return
        stop = self._must_stop(trainer)
        if stop or trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)
        if stop:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        if self._must_stop(trainer):
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handler()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handler()

    def _restore_handler(self) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None

    def _must_stop(self, trainer: Trainer) -> bool:
        """Whether any process was told to stop; they must agree, because writing a checkpoint takes all of them."""
        return trainer.strategy.reduce_boolean_decision(self._interrupted or trainer.received_sigterm, all=False)

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # which leaves nothing behind
            trainer.save_checkpoint(self._path(trainer))

    def _stop(self, trainer: Trainer) -> None:
        say(f"\nStopped after step {trainer.global_step}. To go on: --ckpt_path {self._path(trainer)}")
        raise SIGTERMException if trainer.received_sigterm else KeyboardInterrupt

    @staticmethod
    def _path(trainer: Trainer) -> Path:
        return Path(trainer.log_dir or trainer.default_root_dir) / CHECKPOINTS / LAST
