"""What blocks demand of their numbers and of the maps they are given."""

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import SupportsIndex

from torch import Tensor

from seqca.ops.shared.autocast import autocasts
from seqca.ops.shared.checks import DTYPES, check_dense
from seqca.tasks import check_task_name


def check_map(name: str, x: Tensor, channels: int, weight: Tensor | None = None) -> None:
    """Refuses what is no map (B, channels, H, W), and one that is not of the kind of a weight it will meet.

    Raises:
        TypeError: no floating-point tensor, or, outside autocast, another dtype than the weight's.
        ValueError: another shape, an empty one, or another device than the weight's.
    """
    if not isinstance(x, Tensor) or x.dtype not in DTYPES:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: got {got}, expected a floating-point tensor")
    check_dense(name, x)
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected (B, {channels}, H, W), not empty")
    if weight is not None and weight.is_floating_point():
        if x.device != weight.device:
            raise ValueError(f"{name}: got a tensor on {x.device}, expected {weight.device} as of the weights")
        if x.dtype != weight.dtype and not autocasts(x.device.type):
            raise TypeError(f"{name}: got {x.dtype}, expected {weight.dtype} as of the weights")


def checked_maps(name: str, x: Tensor | Sequence[Tensor], channels: int, weight: Tensor) -> Sequence[Tensor]:
    """A map (B, channels, H, W), or several of one size that have so many channels together, as a list.

    Raises:
        TypeError, ValueError: as `check_map`; maps of several sizes, numbers of images, devices or dtypes.
    """
    if not isinstance(x, (list, tuple)):
        check_map(name, x, channels, weight)  # type: ignore[arg-type]
        return [x]  # type: ignore[list-item]
    if not x:
        raise ValueError(f"{name}: got no map, expected at least one")
    for i, each in enumerate(x):
        check_map(f"{name}[{i}]", each, each.shape[1] if isinstance(each, Tensor) and each.ndim == 4 else 0, weight)
        check_alike(f"{name}[{i}]", each, x[0])
        if each.shape[2:] != x[0].shape[2:]:
            got, first = tuple(each.shape[2:]), tuple(x[0].shape[2:])
            raise ValueError(f"{name}[{i}]: got the size {got}, expected {first} as of {name}[0]")
    if sum(each.shape[1] for each in x) != channels:
        raise ValueError(f"{name}: got {sum(each.shape[1] for each in x)} channels in all, expected {channels}")
    return x


def check_alike(name: str, x: Tensor, first: Tensor) -> None:
    """Refuses a map of another number of images, device or, outside autocast, dtype than the first one's.

    Raises:
        TypeError, ValueError: names it.
    """
    if x.shape[0] != first.shape[0]:
        raise ValueError(f"{name}: got {x.shape[0]} images, expected {first.shape[0]} as in the map before")
    if x.device != first.device:
        raise ValueError(f"{name}: got a tensor on {x.device}, expected {first.device} as in the map before")
    if x.dtype != first.dtype and not autocasts(x.device.type):
        raise TypeError(f"{name}: got {x.dtype}, expected {first.dtype} as in the map before")


def check_scales(
    name: str, maps: Sequence[Tensor], channels_per_scale: Sequence[int], weight: Tensor | None = None
) -> None:
    """Refuses what are no maps (B, C_k, H_k, W_k), one for each scale.

    Raises:
        TypeError, ValueError: another number of maps, or one that does not fit.
    """
    if not isinstance(maps, (list, tuple)):
        raise TypeError(f"{name}: got {type(maps).__name__}, expected a list of maps, the finest first")
    if len(maps) != len(channels_per_scale):
        raise ValueError(f"{name}: got {len(maps)} maps, expected {len(channels_per_scale)}, the finest first")
    for k, (x, channels) in enumerate(zip(maps, channels_per_scale, strict=True)):
        check_map(f"{name}[{k}]", x, channels, weight)
        check_alike(f"{name}[{k}]", x, maps[0])


def check_positive(**numbers: SupportsIndex) -> None:
    """Refuses what is no positive integer.

    Raises:
        ValueError: names it.
    """
    for name, number in numbers.items():
        integer = isinstance(number, SupportsIndex) and not isinstance(number, (bool, Tensor))
        if not integer or index(number) < 1:
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


def check_features(
    features: Mapping[str, Tensor], tasks: Sequence[str], channels: int, weight: Tensor | None = None
) -> None:
    """Refuses what are no maps (B, channels, H, W) of one shape, one for each task.

    Raises:
        TypeError, ValueError: another set of tasks, or a map that does not fit.
    """
    if not isinstance(features, Mapping):
        raise TypeError(f"features: got {type(features).__name__}, expected {{task: map}}")
    if features.keys() != set(tasks):
        raise ValueError(f"features: got the tasks {sorted(features)}, expected {sorted(tasks)}")
    first = features[tasks[0]]
    for task in tasks:
        name = f"features[{task!r}]"
        check_map(name, features[task], channels, weight)
        if features[task].shape != first.shape:
            got = tuple(features[task].shape)
            raise ValueError(f"{name}: got shape {got}, expected {tuple(first.shape)} as of {tasks[0]!r}")
        check_alike(name, features[task], first)


def checked_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """The names of tasks, at least one and none twice.

    Raises:
        ValueError: no name, one twice, or one that no task can have.
    """
    if isinstance(tasks, str) or not isinstance(tasks, Iterable):
        raise ValueError(f"tasks: got {tasks!r}, expected a list of at least one name and none twice")
    names = tuple(tasks)
    for i, name in enumerate(names):
        check_task_name(f"tasks[{i}]", name)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"tasks: got {names}, expected a list of at least one name and none twice")
    return names


def checked_channels(channels_per_scale: Sequence[int]) -> tuple[int, ...]:
    """The channels of at least one scale.

    Raises:
        ValueError: no scale, or channels that are no positive integer.
    """
    if not isinstance(channels_per_scale, Iterable):
        raise ValueError(f"channels_per_scale: got {channels_per_scale!r}, expected a list of positive integers")
    channels = tuple(channels_per_scale)
    if not channels:
        raise ValueError("channels_per_scale: got no scale, expected at least one")
    check_positive(**{f"channels_per_scale[{k}]": c for k, c in enumerate(channels)})
    return channels
