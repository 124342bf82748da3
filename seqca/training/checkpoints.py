"""Writing checkpoints so that neither a crash nor an interruption loses more than the step under way."""

import errno
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from seqca.files import (
    disk_is_full,
    flush_to_disk,
    hold,
    let_go,
    remove_leftovers,
    same_folder,
    temporary_file,
)
from seqca.models.checkpoint import CheckpointError, read_checkpoint

from .restoring import refuse_code

CHECKPOINTS = "checkpoints"  # the folder in a run's folder, as Lightning calls it
LAST = "last.ckpt"

say = rank_zero_only(print)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Reads local files, weights and plain data alone, and writes beside the target and renames, so that a checkpoint
    file is either whole or not there.

    Lightning's own way of writing goes through the folder for temporary files, which may be another file system, where
    renaming becomes copying; its way of reading opens addresses, and runs the code in what comes from there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        if "://" in str(path):
            raise ValueError(f"path: got the address {path}, expected a local file")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, r".*\.ckpt")
        try:
            with temporary_file(target.parent, target.name) as (file, temporary):
                torch.save(checkpoint, file)
                flush_to_disk(file)
                temporary.replace(target)
        except Exception as error:
            if disk_is_full(error):  # torch hides it behind errors of its own
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, not written", str(target)) from error
            raise

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        refuse_code(weights_only)
        return read_checkpoint(path)


def refuse_another_run(trainer: Trainer, path: Path, own: bool) -> None:
    """Refuse to begin a run that would write over the checkpoint `path`, where that is not its own.

    Raises:
        ValueError: it is there.
    """
    taken = not own and not trainer.fast_dev_run and os.path.lexists(path)  # type: ignore[attr-defined]
    if trainer.strategy.broadcast(taken):  # processes end alike
        raise ValueError(
            f"{path}: got a checkpoint of another run, expected none: --ckpt_path {path} goes on with that run, "
            "--trainer.default_root_dir and the settings of the logger put this one elsewhere"
        )


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint so far. A run that goes on compares with what its folder holds, wherever the folder
    has gone in the meantime and by whatever path it is named."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.save_top_k != 0 and self.dirpath is not None:
            # One that goes on knows what its folder holds, and replaces it by a better one alone.
            best = Path(self.dirpath) / f"{self.filename}.ckpt"
            refuse_another_run(trainer, best, own=trainer.ckpt_path is not None)

    @property
    def state_key(self) -> str:
        # Without how often it is written, which may change from one part of a run to the next.
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Not what the checkpoint says: it may be older than the best one, by an epoch even where all went well, since
        # `last.ckpt` is written first. And Lightning forgets the scores where the folder's path differs from the one
        # in the checkpoint, be it that one is absolute and the other relative.
        assert self.dirpath is not None
        paths = (path for path in Path(self.dirpath).glob("*.ckpt") if path.name != LAST)
        scores = {str(path): score for path in paths if (score := self.score_of(path)) is not None}
        worst_first = sorted(scores, key=lambda path: float(scores[path]), reverse=self.mode == "min")
        if self.save_top_k >= 0:
            worst_first = worst_first[max(len(worst_first) - self.save_top_k, 0) :]
        if not worst_first:
            return  # another folder, or a best one that is gone: the next one is the best
        super().load_state_dict({
            **state_dict,
            "dirpath": self.dirpath,
            "best_k_models": {path: scores[path] for path in worst_first},
            "kth_best_model_path": worst_first[0] if len(worst_first) == self.save_top_k else "",
            "kth_value": scores[worst_first[0]],
            "best_model_path": worst_first[-1],
            "best_model_score": scores[worst_first[-1]],
            "last_model_path": "",
        })  # fmt: skip

    def score_of(self, path: Path) -> Tensor | None:
        """The score of a checkpoint that was kept as one of the best; None for another file, a copy of one by another
        name too, which is its owner's and must not be removed for a better one."""
        try:
            state = read_checkpoint(path, mmap=True)["callbacks"][self.state_key]
            score = state["current_score"]
            if path.name not in {re.split(r"[/\\]", name)[-1] for name in state["best_k_models"]}:
                return None
        except (CheckpointError, LookupError, TypeError):
            return None
        return score.clone() if isinstance(score, Tensor) else None


class LastCheckpoint(Callback):
    """Keeps `checkpoints/last.ckpt` in the run's folder, from which `--ckpt_path` goes on exactly.

    It is written after every epoch, every `every_n_steps` optimiser steps, and when the run is interrupted: Ctrl-C
    and SIGTERM let the step under way end, and the validation if one is under way, then save and stop. A second
    one stops at once, without saving.

    Args:
        every_n_steps: steps between two writings within an epoch.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps: got {every_n_steps}, expected at least 1")
        self.every_n_steps = every_n_steps
        self._signal: int | None = None
        self._step_before = 0
        self._previous_handlers: dict[int, Any] = {}
        self._held: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self._path(trainer)  # asks all processes
        begun = None if trainer.ckpt_path is None else Path(trainer.ckpt_path)
        # What a cluster's scheduler saves when it stops a run lies elsewhere, by a name of Lightning's.
        own = begun is not None and (begun.name.startswith("hpc_ckpt_") or same_folder(begun.parent, path.parent))
        refuse_another_run(trainer, path, own)
        self._hold(trainer, path.parent)
        # Instead of Lightning's handlers: at SIGTERM it would stop in the middle of a validation, without saving.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._interrupt)

    def _hold(self, trainer: Trainer, folder: Path) -> None:
        """Hold the folder of checkpoints, so that no other run writes into it as long as this one lasts."""
        busy = False
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._held = hold(folder)
                remove_leftovers(folder, r".*\.ckpt")
            except BlockingIOError:
                busy = True
        if trainer.strategy.broadcast(busy):  # processes end alike
            raise ValueError(f"{folder}: got a folder that a run under way writes to, expected one for this run alone")

    def _interrupt(self, number: int, frame: Any) -> None:
        if self._signal is not None:
            raise stopping(number)
        self._signal = number
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
        self._end()
        path = self._path(trainer)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            say(f"\nThe checkpoints are in {path.parent}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        if self._held is not None:
            let_go(self._held)
            self._held = None
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())

    def _must_stop(self, trainer: Trainer) -> bool:
        """Whether any process was told to stop; they must agree, because writing a checkpoint takes all of them."""
        told = self._signal is not None or trainer.received_sigterm  # the latter before training began
        return trainer.strategy.reduce_boolean_decision(told, all=False)

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # which leaves nothing behind
            trainer.save_checkpoint(self._path(trainer), weights_only=False)

    def _stop(self, trainer: Trainer) -> None:
        say(f"\nStopped after step {trainer.global_step}. To go on: --ckpt_path {self._path(trainer)}")
        terminated = self._signal == signal.SIGTERM or trainer.received_sigterm
        terminated = trainer.strategy.reduce_boolean_decision(terminated, all=False)  # processes end alike
        raise stopping(signal.SIGTERM if terminated else signal.SIGINT)

    @staticmethod
    def _path(trainer: Trainer) -> Path:
        return Path(trainer.log_dir or trainer.default_root_dir) / CHECKPOINTS / LAST


def stopping(number: int) -> BaseException:
    """What ends a run that a signal stopped."""
    return SIGTERMException() if number == signal.SIGTERM else KeyboardInterrupt()
