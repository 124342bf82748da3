"""Which of the published archives a folder holds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Args:
        name: what it is called.
        origin: where it was published, for messages.
        protocols: the protocols whose files these are.
        dataset: "nyud" or "pascal".
        matches: whether a folder holds it.
    """

    name: str
    origin: str
    protocols: tuple[str, ...]
    dataset: str
    matches: Callable[[Path], bool]


def _has(root: Path, folder: str, suffix: str) -> bool:
    return any(path.suffix == suffix for path in (root / folder).glob(f"*{suffix}"))


# The first that matches counts: the older one may have files that the others are told by.
ARCHIVES = (
    Archive(
        "the older NYUD_MT", "ASTMT's NYUD-v2 with .mat labels, which no protocol here reads", (), "nyud",
        lambda root: (root / "gt_sets").is_dir() and (_has(root, "depth", ".mat") or _has(root, "normals", ".jpg")),
    ),
    Archive(
        "NYUD_MT", "MTI-Net's NYUD-v2, JPEG images and NumPy labels", ("mtinet",), "nyud",
        lambda root: (root / "gt_sets").is_dir() and _has(root, "edge", ".npy"),
    ),
    Archive(
        "NYUDv2", "ATRC's and InvPT's NYUD-v2, PNG images, normals and edges", ("invpt",), "nyud",
        lambda root: (root / "gt_sets").is_dir() and _has(root, "edge", ".png"),
    ),
    Archive(
        "PASCAL_MT", "PASCAL-Context of ASTMT and all that followed", ("mtinet", "invpt"), "pascal",
        lambda root: (root / "ImageSets" / "Context").is_dir(),
    ),
)  # fmt: skip

_EXPECTED = {"nyud": "the folder that holds gt_sets/", "pascal": "the folder that holds ImageSets/"}


def identify(root: Path) -> Archive | None:
    """The archive that a folder holds, told from its content and not from its name."""
    return next((archive for archive in ARCHIVES if archive.matches(root)), None)


def check_archive(root: Path, dataset: str, protocol: str) -> None:
    """Refuse a folder that does not hold the files of `dataset` under `protocol`, and say what would do.

    Raises:
        FileNotFoundError: no such folder, or none that holds an archive.
        ValueError: another archive.
    """
    right = next(archive for archive in ARCHIVES if archive.dataset == dataset and protocol in archive.protocols)
    wanted = f"expected {right.name} ({right.origin}), {_EXPECTED[dataset]}; docs/data.md says where it is published"
    if not root.is_dir():
        raise FileNotFoundError(f"root: got {root}, which is no folder, {wanted}")
    found = identify(root)
    if found is None:
        inside = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and identify(folder) is not None]
        hint = f" (or is it {inside[0]}?)" if inside else ""
        raise FileNotFoundError(f"root: got {root}, which holds none of the published archives, {wanted}{hint}")
    if found.dataset != dataset or protocol not in found.protocols:
        other = (
            f'; protocol="{found.protocols[0]}" reads this one' if found.dataset == dataset and found.protocols else ""
        )
        raise ValueError(f"root: got {root}, which holds {found.name} ({found.origin}), {wanted}{other}")
