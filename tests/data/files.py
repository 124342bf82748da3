"""The small archives in tests/golden/datasets, and copies of them to break."""

import shutil
from pathlib import Path

from seqca.data import NYUDv2, PASCALContext
from seqca.data.files import FileDataset

ARCHIVES = Path(__file__).parents[1] / "golden" / "datasets"
FOLDERS = {
    ("nyud", "mtinet"): "nyud_mtinet",
    ("nyud", "invpt"): "nyud_invpt",
    ("pascal", "mtinet"): "pascal",
    ("pascal", "invpt"): "pascal",
}
CLASSES: dict[str, type[FileDataset]] = {"nyud": NYUDv2, "pascal": PASCALContext}


def root(dataset: str, protocol: str) -> Path:
    return ARCHIVES / FOLDERS[dataset, protocol]


def open_dataset(dataset: str, protocol: str, split: str = "train", folder: Path | None = None) -> FileDataset:
    """All tasks of a small archive, or of the copy of it in `folder`."""
    kind = CLASSES[dataset]
    return kind(folder or root(dataset, protocol), split, tuple(kind.available), protocol)


def copy(dataset: str, protocol: str, to: Path) -> Path:
    """A copy of a small archive under a name that says nothing."""
    return Path(shutil.copytree(root(dataset, protocol), to / "my_data"))
