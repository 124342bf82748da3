"""Runs of the command line with a network of a few weights, in processes of their own that can be killed."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqca.models import NetworkOutput
from seqca.training import checkpoints, module
from seqca.training.cli import main

RECIPE = """
trainer:
  max_epochs: 3
  accelerator: cpu
  devices: 1
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
data:
  class_path: RoomsDataModule
  init_args: {tasks: [depth], size: [32, 32], train_length: 6, val_length: 1, batch_size: 2, num_workers: 0}
last: {every_n_steps: 1}
panels: {samples: 0}
"""


class TinyNet(nn.Module):
    """Has what the network has: batch norm, random numbers in training, predictions at four scales."""

    def __init__(
        self, tasks: Mapping[str, int], auxiliary: Mapping[str, int] | None = None, *_: Any, **__: Any
    ) -> None:
        super().__init__()
        self.tasks, self.auxiliary = dict(tasks), dict(auxiliary or {})
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))

    def forward(self, images: Tensor) -> NetworkOutput:
        maps = [self.body(nn.functional.avg_pool2d(images, 4 << k)) for k in range(4)]
        return NetworkOutput({"depth": maps[0]}, tuple({"depth": x} for x in maps))

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"depth": nn.functional.interpolate(self.body(images), images.shape[2:]).clamp(min=0)}


def arguments(folder: Path, *more: str) -> list[str]:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    return ["fit", "--config", str(recipe), "--trainer.logger.save_dir", str(folder), *more]


def last(folder: Path) -> Path:
    return folder / "rooms" / "version_0" / "checkpoints" / "last.ckpt"


class Moments:
    """Counts moments of a run: hooks of training and the steps of writing a file; at one of them the process dies."""

    def __init__(self, fatal: int | None) -> None:
        self.left = fatal

    def pass_one(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def watched(function: Any, moments: Moments) -> Any:
    """`function` with a moment before it, and one after."""

    def call(*args: Any, **kwargs: Any) -> Any:
        moments.pass_one()
        result = function(*args, **kwargs)
        moments.pass_one()
        return result

    return call


def run(command: Sequence[str], fatal: int | None = None) -> None:
    """Run the command with a tiny network, as far as the fatal moment; to be called in a process of its own."""
    torch.set_num_threads(1)
    module.SequentialCrossAttentionNet = TinyNet  # type: ignore[assignment,misc]
    moments = Moments(fatal)
    for owner, name in (
        (checkpoints, "flush_to_disk"), (Path, "replace"), (torch, "save"), (TinyNet, "forward"),
        (checkpoints.LastCheckpoint, "on_train_batch_end"), (checkpoints.LastCheckpoint, "on_train_epoch_end"),
    ):  # fmt: skip
        setattr(owner, name, watched(getattr(owner, name), moments))
    main(list(command))
