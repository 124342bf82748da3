"""What blocks demand of their numbers and of the maps they are given."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import SupportsIndex

from torch import Tensor

from seqca.tasks import check_task_name


def check_map(name: str, x: Tensor, channels: int) -> None:
    """Refuses what is no map (B, channels, H, W).

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another shape, or an empty one.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: got {what}, expected a floating-point tensor")
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected (B, {channels}, H, W), not empty")


def check_batch(name: str, x: Tensor, batch: int) -> None:
    """Refuses a map of another number of images.

    Raises:
        ValueError: another number.
    """
    if x.shape[0] != batch:
        raise ValueError(f"{name}: got {x.shape[0]} images, expected {batch} as in the map before")


def check_scales(name: str, maps: Sequence[Tensor], channels_per_scale: Sequence[int]) -> None:
    """Refuses what are no maps (B, C_k, H_k, W_k), one for each scale.

    Raises:
        TypeError, ValueError: another number of maps, or one that does not fit.
    """
    if len(maps) != len(channels_per_scale):
        raise ValueError(f"{name}: got {len(maps)} maps, expected {len(channels_per_scale)}, the finest first")
    for k, (x, channels) in enumerate(zip(maps, channels_per_scale, strict=True)):
        check_map(f"{name}[{k}]", x, channels)
        check_batch(f"{name}[{k}]", x, maps[0].shape[0])


def check_positive(**numbers: SupportsIndex) -> None:
    """Refuses what is no positive integer.

    Raises:
        ValueError: names it.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, SupportsIndex) or index(number) < 1:
            raise ValueError(f"{name}: got {number!r}, expected a positive integer")


def check_fraction(**numbers: float) -> None:
    """Refuses what is no number in [0, 1].

    Raises:
        TypeError, ValueError: names it.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise TypeError(f"{name}: got {number!r}, expected a number")
        if not 0 <= number <= 1:
            raise ValueError(f"{name}: got {number}, expected a number in [0, 1]")


def check_features(features: Mapping[str, Tensor], tasks: Sequence[str], channels: int) -> None:
    """Refuses what are no maps (B, channels, H, W) of one shape, one for each task.

    Raises:
        TypeError, ValueError: another set of tasks, or a map that does not fit.
    """
    if not isinstance(features, Mapping):
        raise TypeError(f"features: got {type(features).__name__}, expected {{task: map}}")
    if features.keys() != set(tasks):
        raise ValueError(f"features: got the tasks {sorted(features)}, expected {sorted(tasks)}")
    shape = features[tasks[0]].shape
    for task in tasks:
        check_map(f"features[{task!r}]", features[task], channels)
        if features[task].shape != shape:
            got = tuple(features[task].shape)
            raise ValueError(f"features[{task!r}]: got shape {got}, expected {tuple(shape)} as of {tasks[0]!r}")


def checked_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """The names of tasks, at least one and none twice.

    Raises:
        ValueError: no name, one twice, or one that no task can have.
    """
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if isinstance(tasks, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"tasks: got {names}, expected a list of at least one name and none twice")
    for i, name in enumerate(names):
        check_task_name(f"tasks[{i}]", name)
    return names


def checked_channels(channels_per_scale: Sequence[int]) -> tuple[int, ...]:
    """The channels of at least one scale.

    Raises:
        ValueError: no scale, or channels that are no positive integer.
    """
    channels = tuple(channels_per_scale)
    if not channels:
        raise ValueError("channels_per_scale: got no scale, expected at least one")
    check_positive(**{f"channels_per_scale[{k}]": c for k, c in enumerate(channels)})
    return channels
