"""Data loading whose every draw is a function of (seed, epoch, position), so that a broken run continues exactly."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from seqca.data.dataset import DenseDataset
from seqca.data.transforms import Transform, augment
from seqca.labels import check_label
from seqca.loss_type import LABEL_DTYPES, Loss
from seqca.protocols import DEFAULT, get_protocol
from seqca.tasks import get_task


class SampleRequest(NamedTuple):
    """What a sampler asks of `Samples`: a sample, the epoch it is for, and whether scores count it."""

    sample: int
    epoch: int = 0
    counted: bool = True


class Samples(Dataset[dict[str, Any]]):
    """A data set with its labels checked and its samples augmented.

    Args:
        dataset: samples {"image", task: label, "name"}.
        tasks: {task: channels} of the labels to check; a bad one raises a ValueError with the sample's name (for data
            read from files, their data set should put the file there) and the value.
        transform: random augmentation, drawn anew from (seed, epoch, index) each time.
        seed: of the augmentation.
        cache: keep every sample in memory once it was made, in each worker process of its own.
        protocol: which says what labels may hold.
    """

    def __init__(
        self,
        dataset: DenseDataset,
        tasks: dict[str, int],
        transform: Transform | None = None,
        seed: int = 0,
        cache: bool = False,
        protocol: str = DEFAULT,
    ) -> None:
        self.dataset, self.tasks = dataset, tasks
        self.rules = get_protocol(protocol)
        self.transform, self.seed = transform, seed
        self._kept: dict[int, dict[str, Any]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: SampleRequest) -> dict[str, Any]:
        sample = self._sample(draw.sample)
        if self.transform is not None:
            sample = augment(sample, self.transform, self.seed, draw.epoch, draw.sample)
        return {**sample, "counted": draw.counted}

    def _sample(self, index: int) -> dict[str, Any]:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        sample = self.dataset[index]
        source = sample.get("name", f"sample {index}")
        for task, channels in self.tasks.items():
            check_fit(sample, task, source)
            valid = self.rules.task(task).labels
            check_label(sample[task], valid, source=source, task=task, classes=channels if valid.integer else None)
        if self._kept is not None:
            self._kept[index] = sample
        return sample


def check_fit(sample: Mapping[str, Any], task: str, source: str) -> None:
    """Refuses a label that is not there, not as large as its image, or of a dtype that the task's loss does not take.

    Raises:
        TypeError, ValueError: with the sample and the task.
    """
    if missing := [key for key in ("image", task) if key not in sample]:
        raise ValueError(f"{source}: got {', '.join(sample)}, expected {', '.join(missing)} as well")
    label, size = sample[task], tuple(sample["image"].shape[-2:])
    if not isinstance(label, Tensor):
        raise TypeError(f"{source}: {task}: got {type(label).__name__}, expected a tensor")
    loss = get_task(task).loss
    if isinstance(loss, Loss):
        dtypes = (torch.int64,) if loss.kind == "cross_entropy" else LABEL_DTYPES
        if label.dtype not in dtypes:
            wanted = " or ".join(map(str, dtypes))
            raise TypeError(f"{source}: {task}: got a label in {label.dtype}, expected {wanted}")
    if tuple(label.shape[-2:]) != size:
        raise ValueError(
            f"{source}: {task}: got a label of {tuple(label.shape)}, expected {size} pixels as of the image"
        )


class TrainingSampler(DistributedSampler[SampleRequest]):
    """Each process's share of a permutation drawn from (seed, epoch); an uneven rest is left out."""

    skip: int = 0  # samples at the start of the next pass that are left out

    def __iter__(self) -> Iterator[SampleRequest]:
        indices: Iterator[Any] = islice(super().__iter__(), self.skip, None)
        self.skip = 0
        return (SampleRequest(index, self.epoch) for index in indices)


class EvaluationSampler(DistributedSampler[SampleRequest]):
    """Each process's share in order. The processes must take the same number of batches, so the shares are filled up
    with repeated samples, which are marked as not counted."""

    def __iter__(self) -> Iterator[SampleRequest]:
        # The share is rank, rank + n, rank + 2n, …, and the repeated samples are those past the end of the data.
        positions = range(self.rank, self.total_size, self.num_replicas)
        length = len(self.dataset)  # type: ignore[arg-type]
        return (SampleRequest(position % length, counted=position < length) for position in positions)


class ResumableLoader(DataLoader[dict[str, Any]]):
    """A DataLoader over a `TrainingSampler` that can be told where to go on: `state_dict` names the epoch and the
    batches handed out in it, and after `load_state_dict` the pass over that epoch starts behind them."""

    _position: tuple[int, int] = (0, 0)
    _resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        # A generator, so that nothing is drawn before the first batch is asked for: Lightning asks for the iterator
        # before it has told the sampler the epoch of a resumed run.
        sampler = self.sampler
        assert isinstance(sampler, TrainingSampler) and self.batch_size is not None
        epoch, batches = sampler.epoch, 0
        if self._resume is not None and self._resume[0] == epoch:
            batches = self._resume[1]
        self._resume = None
        sampler.skip = batches * self.batch_size
        for batch in super().__iter__():
            batches += 1
            self._position = (epoch, batches)
            yield batch

    def state_dict(self) -> dict[str, int]:
        epoch, batches = self._position
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume = self._position = (state["epoch"], state["batches"])
