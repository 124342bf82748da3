"""Data modules of the data sets that are read from published archives."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import default_collate
from torchvision.transforms.v2 import Compose

from seqca.data.augmentation import augmentation
from seqca.data.files import FileDataset, Original, Stored
from seqca.data.nyud import NYUDv2
from seqca.data.pascal import PASCALContext
from seqca.data.preparation import prepare
from seqca.data.transforms import Transform
from seqca.protocols import DEFAULT, get_protocol

from .datamodule import DenseDataModule
from .loader import Samples

ORIGINAL = "original"  # in a batch: labels as they are stored, a mapping for each image


class ArchiveDataModule(DenseDataModule):
    """Batches from a published archive, prepared, augmented and evaluated as its protocol says."""

    kind: ClassVar[type[FileDataset]]

    def __init__(
        self,
        root: str | None,
        tasks: Sequence[str],
        auxiliary: Sequence[str],
        protocol: str,
        size: tuple[int, int] | None,
        batch_size: int,
        num_workers: int,
        seed: int,
        cache: bool,
    ) -> None:
        archive = get_protocol(protocol).preparation[self.kind.name].archive
        if root is None:
            raise ValueError(
                f"root: got nothing, expected the folder of the archive {archive}, as in --data.root=/data/{archive}; "
                "docs/data.md says where it is published"
            )
        self.root, self.size = Path(root), size
        self.protocol = protocol  # for `dataset`, which the parent's __init__ asks
        super().__init__(tasks, auxiliary, batch_size, num_workers, seed, cache)
        if "edge" in self.tasks:
            edge = self.scores["edge"]
            self.scores["edge"] = replace(edge, options={**edge.options, "workers": num_workers})

    def dataset(self, split: str) -> FileDataset:
        return self.kind(self.root, split, self.labels, self.protocol, self.size)

    @property
    def transform(self) -> Transform:
        preparation = self.dataset("train").preparation
        return Compose([
            augmentation(self.protocol, preparation),
            partial(prepare, protocol=self.protocol, preparation=preparation),
        ])  # fmt: skip

    def _samples(self, split: str, transform: Transform | None = None) -> Samples:
        data = self.dataset(split)
        at_original_size = get_protocol(self.protocol).resizes and split != "train"
        source = data if transform is None else Stored(data)
        # Nothing is left to check: a data set of files checks every label as it reads it.
        return Samples(Original(data) if at_original_size else source, {}, transform, self.seed, self.cache)

    def _loader_settings(self) -> dict[str, Any]:
        return {**super()._loader_settings(), "collate_fn": collate}


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch, in which labels as they are stored, of different sizes, stay apart."""
    batch: dict[str, Any] = default_collate([{k: v for k, v in sample.items() if k != ORIGINAL} for sample in samples])
    if ORIGINAL in samples[0]:
        batch[ORIGINAL] = [sample[ORIGINAL] for sample in samples]
    return batch


class NYUDv2DataModule(ArchiveDataModule):
    """NYUD-v2 (`seqca.data.NYUDv2`).

    Args:
        root: the folder that holds gt_sets/, images/ and the labels.
        tasks: any of semseg, depth, normals, edge.
        auxiliary: tasks whose labels are used for deep supervision only.
        protocol: mtinet, which reads the archive NYUD_MT, or invpt, which reads NYUDv2.
        size: height and width of a sample, multiples of 32; the protocol's own by default.
        batch_size: samples per process and step.
        num_workers: processes that read and augment samples, per training process, and that match edges for odsF.
        seed: of order and augmentation.
        cache: keep every sample in memory once it was read. Each worker process has a memory of its own.
    """

    kind = NYUDv2

    def __init__(
        self,
        root: str | None = None,
        tasks: Sequence[str] = ("semseg", "depth"),
        auxiliary: Sequence[str] = (),
        protocol: str = DEFAULT,
        size: tuple[int, int] | None = None,
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        super().__init__(root, tasks, auxiliary, protocol, size, batch_size, num_workers, seed, cache)


class PASCALContextDataModule(ArchiveDataModule):
    """PASCAL-Context (`seqca.data.PASCALContext`).

    Args:
        root: the folder that holds ImageSets/, JPEGImages/ and the labels: the archive PASCAL_MT.
        tasks: any of semseg, human_parts, sal, normals, edge.
        auxiliary: tasks whose labels are used for deep supervision only.
        protocol: mtinet or invpt.
        size: height and width of a sample, multiples of 32; the protocol's own by default.
        batch_size: samples per process and step.
        num_workers: processes that read and augment samples, per training process, and that match edges for odsF.
        seed: of order and augmentation.
        cache: keep every sample in memory once it was read. Each worker process has a memory of its own.
    """

    kind = PASCALContext

    def __init__(
        self,
        root: str | None = None,
        tasks: Sequence[str] = ("semseg", "normals"),
        auxiliary: Sequence[str] = (),
        protocol: str = DEFAULT,
        size: tuple[int, int] | None = None,
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        super().__init__(root, tasks, auxiliary, protocol, size, batch_size, num_workers, seed, cache)
