"""`Rooms`: rendered indoor scenes with exact labels, as a torch data set that needs no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.utils.data import Dataset

from seqca.data.normalise import normalise
from seqca.data.rooms.classes import ROOMS_CLASSES
from seqca.data.rooms.layout import SPLITS, make_scene
from seqca.data.rooms.render import MIN_SIZE, Rendering, render
from seqca.protocols import DEFAULT
from seqca.tasks import Score

ROOMS_TASKS: dict[str, int] = {"semseg": len(ROOMS_CLASSES), "depth": 1, "normals": 3, "edge": 1, "sal": 1}
_WORDS = 2**32  # seeds and indices are 32-bit words of entropy


class Rooms(Dataset[dict[str, torch.Tensor | str]]):
    """Indoor scenes rendered when they are asked for.

    Scene i of a split depends on (seed, split, i) alone: not on the length, the size in pixels, the tasks, the
    platform or the order of access. Splits never share a scene.

    Args:
        split: "train", "val" or "test".
        length: number of scenes, at least 1.
        size: (height, width) in pixels, each at least 8.
        seed: 0 … 2³² - 1; another seed gives other scenes.
        tasks: the labels wanted, out of semseg, depth, normals, edge, sal.

    A sample is a flat dict: "image" float32 (3, H, W), normalised by the ImageNet mean and standard deviation;
    "semseg" int64 (H, W), indices into ROOMS_CLASSES; "depth" float32 (1, H, W), metres along the optical axis;
    "normals" float32 (3, H, W), unit vectors in camera coordinates (x right, y down, z forward) that face the
    camera; "edge" and "sal" float32 (1, H, W) in {0, 1}; "name", such as "rooms-train-000123". Every pixel is
    valid in every label.

    `tasks` maps each task asked for to its channels, in the order asked; `class_names`, `scores` and `protocol` are as
    `seqca.data.DenseDataset` has them.
    """

    class_names: Mapping[str, Sequence[str]] = {"semseg": ROOMS_CLASSES}
    scores: Mapping[str, Score] = {}
    protocol: str = DEFAULT

    def __init__(
        self,
        split: str,
        length: int,
        size: tuple[int, int] = (96, 128),
        seed: int = 0,
        tasks: Sequence[str] = ("semseg", "depth", "normals", "edge"),
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
        if isinstance(tasks, str):
            raise TypeError(f"tasks: got the single string {tasks!r}, expected a sequence of names")
        unknown = [task for task in tasks if task not in ROOMS_TASKS]
        if unknown:
            raise ValueError(f"tasks: got {', '.join(map(repr, unknown))}, expected some of {', '.join(ROOMS_TASKS)}")
        if len(set(tasks)) != len(tasks) or not tasks:
            raise ValueError(f"tasks: got {tuple(tasks)}, expected at least one name and none twice")
        if len(size) != 2 or any(not isinstance(side, int) or side < MIN_SIZE for side in size):
            raise ValueError(f"size: got {size}, expected two integers (height, width), each at least {MIN_SIZE}")
        for name, value, least in (("length", length, 1), ("seed", seed, 0)):
            if not isinstance(value, int) or not least <= value < _WORDS:
                raise ValueError(f"{name}: got {value!r}, expected an integer from {least} to {_WORDS - 1}")
        self.split = split
        self.length = length
        self.size = (size[0], size[1])
        self.seed = seed
        self.tasks: Mapping[str, int] = {task: ROOMS_TASKS[task] for task in tasks}

    def __len__(self) -> int:
        return self.length

    def rendering(self, index: int) -> Rendering:
        """Scene `index` as NumPy arrays, with all labels."""
        if not 0 <= index < self.length:
            raise IndexError(f"index: got {index}, expected 0 to {self.length - 1}")
        return render(make_scene(self.seed, self.split, index), *self.size)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        rendering = self.rendering(index)
        sample: dict[str, torch.Tensor | str] = {"image": normalise(rendering.image)}
        for task in self.tasks:
            label = torch.from_numpy(getattr(rendering, task))
            sample[task] = label if task in ("semseg", "normals") else label[None]
        sample["name"] = f"rooms-{self.split}-{index:06d}"
        return sample
