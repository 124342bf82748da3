"""Shapes of the network on its data sets, and what each set of cases takes of them."""

from dataclasses import dataclass
from typing import NamedTuple

from seqca.configuration import IMAGE, NETWORK, NYUD_TASKS

from ..harness.case import MODES

CHANNELS = NETWORK.channels
"""C_k of a task's map at scale k."""


class Dataset(NamedTuple):
    """Images of one size, with the tasks that are predicted."""

    name: str
    batch: int
    height: int
    width: int
    tasks: dict[str, int]
    """Output channels by task."""


PASCAL_TASKS = {"semseg": 21, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1}


def nyud(batch: int) -> Dataset:
    """NYUD-v2."""
    return Dataset("nyud", batch, *IMAGE, NYUD_TASKS)


def pascal(batch: int) -> Dataset:
    """PASCAL-Context."""
    return Dataset("pascal", batch, 512, 512, PASCAL_TASKS)


def tokens_per_scale(data: Dataset) -> tuple[int, ...]:
    """Pixels of a map at each scale."""
    return NETWORK.tokens(data.height, data.width)


@dataclass(frozen=True)
class CaseSet:
    """A set of cases on a device type."""

    name: str
    device: str
    datasets: tuple[Dataset, ...]
    scales: tuple[int, ...]
    dtypes: tuple[str, ...]
    directions: tuple[str, ...]
    task_sweep: tuple[int, ...]
    task_sweep_scales: tuple[int, ...]
    token_sweep: tuple[int, ...]
    channel_sweep: tuple[int, ...]
    sweep_dtype: str
    sweep_leading: int
    """Leading indices in the sweeps over tokens and channels."""
    scheme_sides: tuple[int, int]
    """Height and width of the image whose maps the attention schemes are compared on."""
    scheme_tasks: tuple[int, ...]
    scheme_scales: tuple[int, ...]
    compiled: tuple[str, ...]
    """What is compiled in this set: of `operators`, `sweeps` and `network`."""
    seconds: float
    """Spent on timing one provider, where its calls are short enough."""
    minutes: float
    """After which no further case is begun."""

    def modes(self, sweep: bool = False) -> tuple[str, ...]:
        """Modes of the operators' cases."""
        return self._modes("sweeps" if sweep else "operators")

    def network_modes(self) -> tuple[str, ...]:
        """Modes of the network's cases."""
        return self._modes("network")

    def _modes(self, what: str) -> tuple[str, ...]:
        compiled, autotuned = what in self.compiled, what in self.compiled and self.full
        without = [*([] if compiled else ["compiled", "compiled, graph"]), *([] if autotuned else ["max-autotune"])]
        return tuple(mode for mode in MODES if mode not in without)

    @property
    def full(self) -> bool:
        """Whether everything is measured that a sceptic would ask for."""
        return self.name == "full"


def case_set(name: str, device: str, minutes: float | None = None) -> CaseSet:
    """The set `quick`, `standard` or `full` for a device type.

    On a CPU images come one at a time and in float32, and sizes end where a call takes a second.
    """
    gpu = device == "cuda"
    quick, full = name == "quick", name == "full"
    datasets = (nyud(8), pascal(16)) if gpu else (nyud(1), pascal(1))
    last = 18 if gpu or not quick else 15
    return CaseSet(
        name=name,
        device=device,
        datasets=datasets[:1] if quick else datasets,
        scales=(0, 3) if quick else (0, 1, 2, 3),
        dtypes=("bf16",) if gpu and quick else ("bf16", "fp32") if gpu else ("fp32",),
        directions=("both",) if quick else ("forward", "backward", "both"),
        task_sweep=(2, 3, 4, 5),
        task_sweep_scales=(0, 1, 2, 3) if full else (0,),
        token_sweep=tuple(2**i for i in range(10, last + 1, 2 if quick else 1)),
        channel_sweep=(18, 72, 288) if quick else (18, 36, 72, 144, 288),
        sweep_dtype="bf16" if gpu else "fp32",
        sweep_leading=8 if gpu else 1,
        scheme_sides=IMAGE if gpu else (120, 160),
        scheme_tasks=(2, 4) if quick else (1, 2, 3, 4, 5, 6),
        scheme_scales=(2, 4) if quick else (1, 2, 3, 4),
        compiled=("operators", "sweeps", "network") if full else ("operators",) if gpu and not quick else (),
        seconds=0.1 if quick else 0.4,
        minutes={"quick": 2, "standard": 10, "full": 240}[name] if minutes is None else minutes,
    )
