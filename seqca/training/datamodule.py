"""Data modules: what the trainer reads its batches from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import RandomHorizontalFlip

from seqca.data.dataset import DenseDataset
from seqca.data.rooms import Rooms
from seqca.data.transforms import Transform

from .loader import EvaluationSampler, ResumableLoader, Samples, TrainingSampler
from .restoring import LoadsWeightsOnly


class DenseDataModule(LoadsWeightsOnly, LightningDataModule, ABC):  # type: ignore[misc]  # on purpose, see there
    """Batches of images and dense labels, the same ones whenever seed, epoch and number of processes are.

    A subclass says what the data are: `dataset(split)`. The data set says the rest: channels, names of classes, scores.

    Args:
        tasks: the tasks to train, in the network's order.
        auxiliary: tasks whose labels are used for deep supervision only.
        batch_size: samples per process and step.
        num_workers: processes that load data, per training process; 0 loads in the training process itself.
        seed: of the order and the augmentation.
        cache: keep every sample in memory once it was made. Each worker process has a memory of its own.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        auxiliary: Sequence[str] = (),
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        super().__init__()
        for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"{name}: got {number!r}, expected an integer, at least {least}")
        self.batch_size, self.num_workers, self.seed, self.cache = batch_size, num_workers, seed, cache
        self.labels = (*tasks, *auxiliary)
        train = self.dataset("train")
        self.tasks = {task: train.tasks[task] for task in tasks}
        self.auxiliary = {task: train.tasks[task] for task in auxiliary}
        self.class_names = {task: list(names) for task, names in train.class_names.items()}
        self.scores = dict(train.scores)
        self.protocol = train.protocol
        self._train_loader: ResumableLoader | None = None
        self._resume: dict[str, int] | None = None

    @abstractmethod
    def dataset(self, split: str) -> DenseDataset:
        """The data set "train", "val" or "test" with labels for `self.labels`."""

    @property
    def transform(self) -> Transform | None:
        """Random augmentation of the training samples."""
        return None

    def train_dataloader(self) -> ResumableLoader:
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            # Lightning would put a sampler of its own in place of the one that makes runs reproducible.
            raise ValueError(
                f"overfit_batches: got {self.trainer.overfit_batches}, expected 0; a data set of few samples "  # type: ignore[attr-defined]
                "(train_length of the rooms) can be overfitted"
            )
        samples = self._samples("train", self.transform)
        sampler = TrainingSampler(samples, *self._share(), shuffle=True, seed=self.seed, drop_last=True)
        if len(sampler) < self.batch_size:
            count = sampler.num_replicas
            share = f"{len(sampler)} training samples" + (f" in each of {count} processes" if count > 1 else "")
            raise ValueError(f"batch_size: got {self.batch_size} with {share}, expected no more than there are samples")
        self._train_loader = ResumableLoader(samples, sampler=sampler, drop_last=True, **self._loader_settings())
        if self._resume is not None:
            self._train_loader.load_state_dict(self._resume)
            self._resume = None
        return self._train_loader

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._evaluation_loader("test")

    def calibration_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The training samples in order and without augmentation, the same ones in every process."""
        samples = self._samples("train")
        sampler = EvaluationSampler(samples, num_replicas=1, rank=0, shuffle=False)
        return DataLoader(samples, sampler=sampler, **self._loader_settings())

    # The position in the epoch is kept here and not by the loader alone, because Lightning makes the loader before it
    # reads the loaders' states from a checkpoint where the length of the run is asked for (polynomial decay does).
    def state_dict(self) -> dict[str, Any]:
        return {} if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resume = {key: int(state_dict[key]) for key in ("epoch", "batches")} if state_dict else None

    def _evaluation_loader(self, split: str) -> DataLoader[dict[str, Any]]:
        samples = self._samples(split)
        sampler = EvaluationSampler(samples, *self._share(), shuffle=False)
        return DataLoader(samples, sampler=sampler, **self._loader_settings())

    def _samples(self, split: str, transform: Transform | None = None) -> Samples:
        return Samples(
            self.dataset(split), self.tasks | self.auxiliary, transform, self.seed, self.cache, self.protocol
        )

    def _share(self) -> tuple[int, int]:
        """(number of processes, rank of this one)."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _loader_settings(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            # A loader draws the seed of its workers from torch's generator unless it has one of its own: then the
            # random numbers of training would depend on how often a loader was started.
            "generator": torch.Generator().manual_seed(self.seed),
        }


class RoomsDataModule(DenseDataModule):
    """Rendered indoor scenes (`seqca.data.rooms`), which need no download.

    Args:
        tasks: any of semseg, depth, normals, edge, sal.
        auxiliary: tasks whose labels are used for deep supervision only.
        size: height and width of the images, multiples of 32.
        train_length: number of training scenes; validation and test scenes are others.
        val_length: number of validation scenes.
        test_length: number of test scenes.
        flip: probability that a training sample is mirrored.
        batch_size: samples per process and step.
        num_workers: processes that render scenes, per training process; 0 renders in the training process itself.
        seed: of scenes, order and augmentation.
        cache: keep every scene in memory once it was rendered. Each worker process has a memory of its own.
    """

    def __init__(
        self,
        tasks: Sequence[str] = ("semseg", "depth", "normals", "edge"),
        auxiliary: Sequence[str] = (),
        size: tuple[int, int] = (96, 128),
        train_length: int = 4000,
        val_length: int = 200,
        test_length: int = 400,
        flip: float = 0.5,
        batch_size: int = 8,
        num_workers: int = 2,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        if not 0 <= flip <= 1:
            raise ValueError(f"flip: got {flip!r}, expected a probability")
        self.size, self.flip = size, flip
        self.lengths = {"train": train_length, "val": val_length, "test": test_length}
        super().__init__(tasks, auxiliary, batch_size, num_workers, seed, cache)

    def dataset(self, split: str) -> Rooms:
        return Rooms(split, self.lengths[split], size=self.size, seed=self.seed, tasks=self.labels)

    @property
    def transform(self) -> Transform | None:
        return RandomHorizontalFlip(self.flip) if self.flip > 0 else None
