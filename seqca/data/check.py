"""`seqca data check`: whether a folder holds what training will read, and what is in it."""

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from seqca.labels import IGNORE, LabelKind
from seqca.protocols import PROTOCOLS, get_protocol
from seqca.tasks import get_task

from .archives import identify
from .files import FileDataset
from .nyud import NYUDv2
from .pascal import PASCALContext

GOOD, WRONG_USAGE, BAD = 0, 2, 1
DATASETS: dict[str, type[FileDataset]] = {"nyud": NYUDv2, "pascal": PASCALContext}
SPLITS = ("train", "val")
PUBLISHED = {"nyud": {"train": 795, "val": 654}, "pascal": {"train": 4998, "val": 5105}}
QUICK = 20  # samples of each split
SHOWN = 6  # samples on the sheet, and problems of one kind in the report


@dataclass
class LabelStatistics:
    """Of one task over the samples that were read."""

    pixels: int = 0
    valid: int = 0
    low: float = np.inf
    high: float = -np.inf
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, label: np.ndarray, kind: LabelKind) -> None:
        present = label[label != IGNORE]
        self.pixels += label.size
        self.valid += present.size
        if present.size:
            self.low, self.high = min(self.low, float(present.min())), max(self.high, float(present.max()))
        if kind is LabelKind.CLASS:
            self.counts += np.bincount(label.ravel(), minlength=256)[:256]

    def describe(self, names: Sequence[str] | None) -> str:
        if not self.valid:
            return "no pixel has a label"
        text = f"{self.valid / self.pixels:6.1%} of the pixels have a label, {self.low:.4g} to {self.high:.4g}"
        if names is None:
            return text
        shares = self.counts[: len(names)] / self.valid
        order = np.argsort(-shares, kind="stable")
        frequent = ", ".join(f"{names[k]} {shares[k]:.1%}" for k in order[:5])
        absent = [names[k] for k in range(len(names)) if not self.counts[k]]
        return f"{text}; {frequent}" + (f"; absent: {', '.join(absent)}" if absent else "")


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status, see `build_parser`."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    root: Path = options.root
    archive = identify(root) if root.is_dir() else None
    if archive is None or not archive.protocols:
        found = "no folder" if not root.is_dir() else "none of the published archives"
        found = f"{archive.name} ({archive.origin})" if archive else found
        expected = "expected NYUD_MT, NYUDv2 or PASCAL_MT"
        print(f"seqca data check: got {root}, which holds {found}, {expected}", file=sys.stderr)
        return BAD
    protocol = options.protocol or archive.protocols[0]
    wrong = options.data not in (None, archive.dataset) or protocol not in archive.protocols
    print(f"{root} holds {archive.name}: {archive.origin}; read by protocol {' or '.join(archive.protocols)}")
    if wrong:
        wanted = f"data {options.data or archive.dataset} under protocol {protocol}"
        print(f"seqca data check: expected {wanted}, got this archive", file=sys.stderr)
        return BAD
    if options.sheet.resolve().is_relative_to(root.resolve()):
        parser.error(
            f"--sheet: got {options.sheet}, expected a file outside {root}: nothing is written into that folder"
        )
    return report(root, archive.dataset, protocol, options.quick, options.sheet)


def report(root: Path, name: str, protocol: str, quick: bool, sheet: Path) -> int:
    """Read the samples, print what is in them and what is wrong; returns the exit status."""
    problems: list[str] = []
    splits: dict[str, FileDataset] = {}
    for split in SPLITS:
        try:
            splits[split] = DATASETS[name](root, split, tuple(DATASETS[name].available), protocol)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    print("\n".join(count_files(root, splits.values())))
    for split, data in splits.items():
        published = PUBLISHED[name][split]
        unlike = "" if len(data) == published else f", where the published split has {published}"
        print(f"\n{split}: {len(data)} samples{unlike}")
        twice = sorted(sample for sample, count in Counter(data.ids).items() if count > 1)
        problems += [f"{data.split_file(split)}: {sample} occurs more than once" for sample in twice]
        found, statistics, shown = read(data, quick)
        problems += found
        for task, values in statistics.items():
            print(f"  {task:<12}{values.describe(data.class_names.get(task))}")
        if shown:
            path = sheet.with_stem(f"{sheet.stem}_{split}")
            draw_sheet(path, shown, data)
            print(f"  samples to look at: {path}")
    if not problems:
        print("\nEverything that was read is as it should be.")
        return GOOD
    print(f"\n{len(problems)} problem{'' if len(problems) == 1 else 's'}:", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return BAD


def count_files(root: Path, splits: Collection[FileDataset]) -> Iterator[str]:
    """A line for each folder that samples are read from: its files, and those that no split names."""
    names = {name for data in splits for name in data.ids}
    folders = {path.parent for data in splits for name in data.ids for path in data.files(name).values()}
    for folder in sorted(folders):
        files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
        unnamed = sum(path.stem not in names for path in files)
        rest = f", {unnamed} of which no split names" if unnamed else ""
        yield f"  {folder.relative_to(root)}: {len(files)} files{rest}"


def read(data: FileDataset, quick: bool) -> tuple[list[str], dict[str, LabelStatistics], list[dict[str, np.ndarray]]]:
    """(what is wrong, statistics by task, some samples); of all samples, or of some from first to last."""
    indices = np.arange(len(data))
    if quick and len(data) > QUICK:
        indices = np.linspace(0, len(data) - 1, QUICK).astype(int)
    problems: list[str] = []
    statistics = {task: LabelStatistics() for task in data.tasks}
    shown: list[dict[str, np.ndarray]] = []
    for index in tqdm(indices, desc=data.split, unit="sample", disable=None):
        name = data.ids[index]
        files = data.files(name)
        missing = [f"{path}: got no file, expected one" for path in dict.fromkeys(files.values()) if not path.is_file()]
        sizes: dict[str, tuple[int, ...]] = {}
        arrays: dict[str, np.ndarray] = {}
        for key in ("image", *data.tasks):
            if not files[key].is_file():
                continue
            try:
                arrays[key] = data.image(name) if key == "image" else data.label(name, key)
                sizes[key] = arrays[key].shape[:2] if key == "image" else arrays[key].shape[-2:]
            except (OSError, TypeError, ValueError) as error:
                problems.append(str(error))
                continue
            if key in statistics:
                statistics[key].add(arrays[key], get_protocol(data.protocol).task(key).kind)
        problems += missing
        if "image" in sizes:
            problems += [
                f"{files[key]}: got a size of {size}, expected the image's {sizes['image']}"
                for key, size in sizes.items()
                if size != sizes["image"] and not (key == "human_parts" and (arrays[key] == IGNORE).all())
            ]
        if len(shown) < SHOWN and len(arrays) == 1 + len(data.tasks):
            shown.append(arrays)
    return problems, statistics, shown


def draw_sheet(path: Path, samples: Sequence[dict[str, np.ndarray]], data: FileDataset) -> None:
    """A picture of samples, a row each: the image and every label in its colours."""
    from PIL import Image

    rows = []
    for sample in samples:
        tiles = [sample["image"], *(get_task(task).colour(sample[task]) for task in data.tasks)]
        height, width = sample["image"].shape[:2]
        size = (max(1, round(240 * width / height)), 240)
        rows.append(np.concatenate([np.asarray(Image.fromarray(tile).resize(size, 0)) for tile in tiles], 1))
    widest = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 8), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        Image.fromarray(np.concatenate(padded)).save(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqca data check",
        description="Says which archive a folder holds, reads every sample, reports what is missing or out of range "
        "and what is in the labels. Nothing is written into the folder.",
        epilog=f"exit status: {GOOD} all is well; {BAD} something is wrong, or another archive is there; "
        f"{WRONG_USAGE} wrong usage",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder that holds gt_sets/ or ImageSets/")
    parser.add_argument("--data", choices=list(DATASETS), help="refuse another data set than this one")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="the protocol; by default the first that reads it")
    parser.add_argument("--quick", action="store_true", help=f"read {QUICK} samples of each split only")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE.png",
        default=Path("data_check.png"),
        help="where samples are drawn: FILE_train.png and FILE_val.png (default: %(default)s)",
    )
    return parser
