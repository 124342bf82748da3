"""What the data sets that are read from files share."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from seqca.labels import IGNORE, LabelKind, LabelRange, check_label
from seqca.protocols import DEFAULT, get_protocol
from seqca.tasks import Score

from .archives import check_archive
from .preparation import prepare, resize

Arrays = dict[str, Any]

# Labels as they are read, before pixels without a label are marked; a zero vector has no direction.
STORED_VECTORS = LabelRange(-1.01, 1.01, ignore=None)
STORED_DEPTH = LabelRange(0, 254, ignore=None)  # metres; 0 is unknown, and 255 marks that later


class FileDataset(Dataset[dict[str, Any]]):
    """A data set read from a published archive.

    `ds[i]` is a sample as training takes it, without augmentation; `ds.load(i)` are the stored arrays. Nothing is
    written into the folder. A file that is missing or cannot be read, and a label outside its range, raise with the
    file's path when the sample is read.

    Args:
        root: the folder that holds the archive; its name does not matter.
        split: "train" or "val". "test" is another name of "val", the set that all published numbers are from.
        tasks: the labels wanted.
        protocol: whose files and conventions, see `seqca.protocols`.
        size: height and width of a sample in place of the protocol's.

    Attributes:
        tasks: {task: channels that a network has to predict}.
        class_names: {task: names of its classes}.
        scores: {task: how it is scored}.
        protocol: the protocol's name.
        ids: names of the samples, in the order of the split's file.
    """

    name: str  # of the data set in `Protocol.preparation`
    max_distance: float  # within which edges are matched, in units of the image's diagonal
    available: Mapping[str, Sequence[str] | None]  # {task: names of its classes, or None}

    def __init__(
        self,
        root: str | Path,
        split: str,
        tasks: Iterable[str],
        protocol: str = DEFAULT,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.root, self.split, self.protocol = Path(root), split, protocol
        rules = get_protocol(protocol)
        self.preparation = rules.preparation[self.name]
        if size is not None:
            self.preparation = replace(self.preparation, size=(size[0], size[1]))
        names = _checked_tasks(tasks, self.available)
        if split not in ("train", "val", "test"):
            raise ValueError(f"split: got {split!r}, expected train, val or test")
        check_archive(self.root, self.name, protocol)
        classes = {task: self.available[task] for task in names}
        self.class_names: Mapping[str, Sequence[str]] = {t: known for t, known in classes.items() if known is not None}
        self.tasks: Mapping[str, int] = {
            task: rules.task(task).channels or len(self.class_names[task]) for task in names
        }
        scores = {task: rules.task(task).score for task in names}
        if "edge" in names:
            scores["edge"] = Score(
                "odsF",
                "seqca.metrics:OdsF",
                higher_is_better=True,
                options={"max_distance": self.max_distance, "protocol": protocol},
                quick={"thresholds": 9, "every": 8},
            )
        self.scores: Mapping[str, Score] = scores
        self.ids = read_ids(self.split_file("val" if split == "test" else split))

    @abstractmethod
    def split_file(self, split: str) -> Path:
        """The list of the samples of "train" or "val"."""

    @abstractmethod
    def files(self, name: str) -> dict[str, Path]:
        """{"image" or task: file} of a sample, of all labels of the archive, wanted or not."""

    @abstractmethod
    def read(self, name: str, task: str) -> np.ndarray:
        """A sample's label with the protocol's conversions, checked, of the size that its file has."""

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Arrays:
        """The stored arrays of a sample, pixels without a label marked 255.

        Returns:
            "image" uint8 (H, W, 3); labels of classes int64 (H, W); "depth", "edge", "sal" float32 (1, H, W); "normals"
            float32 (3, H, W); "name". A label whose file has another size than the image's is resized, as both
            protocols' own loaders do: normals by cubic interpolation, others to the nearest pixel.
        """
        name = self.ids[index]
        image = self.image(name)
        height, width = image.shape[:2]
        labels = {}
        for task in self.tasks:
            label = torch.from_numpy(np.ascontiguousarray(self.label(name, task)))
            labels[task] = resize(label, (height, width), get_protocol(self.protocol).task(task).kind).numpy()
        return {"image": image, **labels, "name": name}

    def image(self, name: str) -> np.ndarray:
        """A sample's image, uint8 (H, W, 3)."""
        return read_image(self.files(name)["image"])

    def label(self, name: str, task: str) -> np.ndarray:
        """A sample's label as `load` returns it, of the size that its file has."""
        return mark(task, self.read(name, task))

    def stored(self, index: int) -> dict[str, Any]:
        """`load(index)` as tensors, the image (3, H, W): what augmentation begins with."""
        arrays = self.load(index)
        arrays["image"] = arrays["image"].transpose(2, 0, 1)
        return {
            key: torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
            for key, value in arrays.items()
        }

    def __getitem__(self, index: int) -> dict[str, Any]:
        return prepare(self.stored(index), self.protocol, self.preparation)


class _View(Dataset[dict[str, Any]]):
    """Other samples of the same data set."""

    def __init__(self, dataset: FileDataset) -> None:
        self.dataset = dataset
        self.tasks, self.class_names, self.scores = dataset.tasks, dataset.class_names, dataset.scores
        self.protocol = dataset.protocol

    def __len__(self) -> int:
        return len(self.dataset)


class Stored(_View):
    """The samples as they are stored: what augmentation begins with."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset.stored(index)


class Original(_View):
    """The prepared samples and, as "original", their labels as they are stored: what is evaluated at original size."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        stored = self.dataset.stored(index)
        prepared = prepare(stored, self.dataset.protocol, self.dataset.preparation)
        return {**prepared, "original": {task: stored[task] for task in self.tasks}}


def _checked_tasks(tasks: Iterable[str], available: Mapping[str, Any]) -> tuple[str, ...]:
    if isinstance(tasks, str):
        raise TypeError(f"tasks: got the single string {tasks!r}, expected a sequence of names")
    names = tuple(tasks)
    if not names or len(set(names)) != len(names) or any(name not in available for name in names):
        raise ValueError(f"tasks: got {names}, expected at least one of {', '.join(available)}, none twice")
    return names


def mark(task: str, label: np.ndarray) -> np.ndarray:
    """Marks pixels without a label, 255 in every channel: depth 0, the zero vector, human parts where no person is."""
    rules = get_protocol(DEFAULT).task(task)
    if rules.kind is LabelKind.DISTANCE:
        return np.where(label == 0, np.float32(IGNORE), label)
    if rules.kind is LabelKind.VECTOR:
        return np.where((label == 0).all(0), np.float32(IGNORE), label)
    if task == "human_parts" and not label.any():
        return np.full_like(label, int(IGNORE))
    return label


def read_ids(path: Path) -> list[str]:
    """The names in a split's file, one a line."""
    if not path.is_file():
        raise FileNotFoundError(f"root: got no file {path}, expected the list of the split's samples")
    ids = path.read_text().split()
    if not ids:
        raise ValueError(f"{path}: got no names, expected one a line")
    return ids


def read_picture(path: Path, mode: str) -> np.ndarray:
    """A picture as uint8, (H, W) for mode "L" and (H, W, 3) for "RGB"; a palette's entries are its indices."""
    _require(path)
    try:
        with Image.open(path) as picture:
            if mode == "L" and picture.mode not in ("L", "P"):
                raise ValueError(f"got a picture of mode {picture.mode}, expected one channel of 8 bits")
            return np.array(picture if mode == "L" else picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_image(path: Path) -> np.ndarray:
    return read_picture(path, "RGB")


def read_array(path: Path, dimensions: int) -> np.ndarray:
    """An array of numbers from a .npy file, float32."""
    _require(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: {error}") from error
    if array.ndim == dimensions + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != dimensions or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: got an array {array.shape} of {array.dtype}, expected numbers in {dimensions} dimensions"
        )
    return array.astype(np.float32)


def read_mat(path: Path, variable: str) -> np.ndarray:
    """A variable of a MATLAB file."""
    from scipy.io import loadmat

    _require(path)
    try:
        content = loadmat(path, variable_names=[variable])
    except Exception as error:  # broken bytes make SciPy and zlib raise errors of many types
        raise ValueError(f"{path}: got no MATLAB file that can be read ({error}), expected one") from error
    if variable not in content:
        raise ValueError(f"{path}: got no variable {variable!r}, expected one")
    return content[variable]


def decode_vectors(picture: np.ndarray) -> np.ndarray:
    """Vectors (3, H, W) from a picture (H, W, 3) whose 0 is −1 and whose 255 is 1."""
    return (2 * (picture.astype(np.float32) / 255) - 1).transpose(2, 0, 1)


def checked(path: Path, task: str, label: np.ndarray, valid: LabelRange) -> np.ndarray:
    """`label` if it is valid; else ValueError with file, value and place."""
    check_label(label, valid, source=str(path), task=task)
    return label


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: got no file, expected one")


def classes_up_to(highest: int, ignore: float | None) -> LabelRange:
    return replace(LabelRange(0, highest, integer=True), ignore=ignore)
