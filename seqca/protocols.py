"""What the two published protocols of NYUD-v2 and PASCAL-Context say, in one table.

Published numbers come from one of two families of code, whose files, augmentation, losses, schedule and evaluation
differ. `mtinet` is Vandenhende et al., "MTI-Net", ECCV 2020, which Kim et al. 2022 follow; `invpt` is Ye and Xu,
"InvPT", ECCV 2022, which took it from Brüggemann et al., "ATRC", ICCV 2021. A run follows one of them in everything:
its name is an attribute of the data set, and all else is looked up here. Deep supervision is this network's own under
both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from seqca.labels import IGNORE, LabelRange
from seqca.loss_type import Loss
from seqca.tasks import Score, Task, get_task

DEFAULT = "mtinet"


@dataclass(frozen=True)
class Preparation:
    """How the samples of a data set are made ready.

    Args:
        archive: name of the published archive.
        size: height and width of a sample: what it is resized to, or cropped and padded to.
        scales: factors of the random zoom; drawn from the tuple, or uniformly between its two ends.
        uniform: which of these.
        rotation: greatest angle of the random rotation, in degrees.
        uncovered: what `BINARY` and `CLASS` labels become where a rotation or zoom uncovers a corner.
    """

    archive: str
    size: tuple[int, int]
    scales: tuple[float, ...]
    uniform: bool = False
    rotation: float = 0.0
    uncovered: float = IGNORE


@dataclass(frozen=True)
class EdgeMatching:
    """How odsF reads a prediction: at which thresholds, whether a pixel is an edge from the threshold on or above it
    only, and whether non-maxima are suppressed first."""

    thresholds: tuple[float, ...]
    strictly_above: bool
    suppress: bool


@dataclass(frozen=True)
class Schedule:
    """Adam's settings and the length of a run, whose learning rate decays as (1 − t/T)^0.9.

    Args:
        learning_rate: of Adam.
        weight_decay: of Adam.
        decay_interval: what t, T and `length` count, "step" or "epoch".
        length: of a run.
    """

    learning_rate: float
    weight_decay: float
    decay_interval: Literal["step", "epoch"]
    length: int


@dataclass(frozen=True)
class Protocol:
    """One published way to prepare, train and evaluate.

    Args:
        name: its name.
        tasks: the tasks whose definition differs from the registry's.
        loss_factors: what a task's loss is multiplied by, where the protocol sums what `Loss` averages.
        resizes: whether samples are resized to their size, and predictions back to the image's for evaluation;
            otherwise samples are cropped and padded, and padding is left out.
        photometric: whether brightness, contrast, saturation and hue are drawn at random.
        stored: the tasks whose predictions are written to pictures before they are evaluated, which rounds them down
            to 256 levels.
        edges: how odsF reads predictions.
        schedule: of the published multi-task runs, which holds where a run has no other.
        preparation: by data set, "nyud" and "pascal".
    """

    name: str
    resizes: bool
    photometric: bool
    stored: tuple[str, ...]
    edges: EdgeMatching
    schedule: Schedule
    preparation: Mapping[str, Preparation]
    tasks: Mapping[str, Task] = field(default_factory=dict)
    loss_factors: Mapping[str, float] = field(default_factory=dict)

    def task(self, name: str) -> Task:
        """The definition of a registered task under this protocol."""
        return self.tasks[name] if name in self.tasks else get_task(name)


def get_protocol(name: str) -> Protocol:
    """The protocol of that name; ValueError with the names there are if there is none."""
    if name not in PROTOCOLS:
        raise ValueError(f"protocol: got {name!r}, expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


_HUNDREDTHS = tuple(percent / 100 for percent in range(1, 100))
_BINARY_OR_IGNORED = LabelRange(0, 1, ignore=IGNORE)

MTINET = Protocol(
    name="mtinet",
    resizes=True,
    photometric=False,
    stored=("semseg", "human_parts", "sal", "normals", "edge", "depth"),
    edges=EdgeMatching(_HUNDREDTHS, strictly_above=False, suppress=False),
    schedule=Schedule(1e-4, 1e-4, decay_interval="epoch", length=100),
    preparation={
        "nyud": Preparation("NYUD_MT", (480, 640), scales=(1.0, 1.2, 1.5)),
        # Corners that the rotation uncovers are background, not ignored: the protocol's numbers depend on it.
        "pascal": Preparation("PASCAL_MT", (512, 512), scales=(0.75, 1.25), uniform=True, rotation=20.0, uncovered=0),
    },
)

INVPT = Protocol(
    name="invpt",
    resizes=False,
    photometric=True,
    stored=("edge",),
    edges=EdgeMatching((0.001, *_HUNDREDTHS, 0.999), strictly_above=True, suppress=True),
    schedule=Schedule(2e-5, 1e-6, decay_interval="step", length=40_000),
    preparation={
        "nyud": Preparation("NYUDv2", (448, 576), scales=(0.5, 2.0), uniform=True),
        "pascal": Preparation("PASCAL_MT", (512, 512), scales=(0.5, 2.0), uniform=True),
    },
    tasks={
        # Vectors read from 8-bit files are a little longer or shorter than 1, and stay so.
        "normals": replace(get_task("normals"), labels=LabelRange(-1, 1, ignore=IGNORE)),
        "edge": replace(
            get_task("edge"),
            loss=Loss("balanced_bce", ignore=IGNORE, positive_weight=0.95),
            labels=_BINARY_OR_IGNORED,
        ),
        "sal": replace(
            get_task("sal"),
            channels=2,
            loss=Loss("two_class", ignore=IGNORE),
            labels=_BINARY_OR_IGNORED,
            score=Score("maxF", "seqca.metrics:PooledSaliency", higher_is_better=True),
        ),
    },
    loss_factors={"normals": 3.0},  # summed over the three channels
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (MTINET, INVPT)}
