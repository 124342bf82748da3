"""Labels of the cases: those of rendered rooms, whose regions, depths and rare edges are like those of photographs.

Labels drawn pixel by pixel would be another load: neighbours are hardly ever of one class, and a tenth is the same in
every corner.
"""

from functools import cache

import torch
from torch import Generator, Tensor

from seqca.data.rooms import Rooms
from seqca.data.rooms.classes import CLASS_INDEX
from seqca.data.rooms.render import Rendering
from seqca.loss_type import Loss
from seqca.tasks import get_task

from .shapes import Dataset

ROOMS = 8
"""Different ones at most: to render one of 480×640 pixels takes a second."""

_FIRST_PIECE = CLASS_INDEX["table"]
"""Of furniture; classes below are those of the room itself."""


def labels(data: Dataset, generator: Generator) -> dict[str, Tensor]:
    """The labels of all tasks, of the same rooms, which are drawn; on the generator's device."""
    drawn = _drawn(data, generator)
    tasks = {task: channels for task, channels in data.tasks.items() if isinstance(get_task(task).loss, Loss)}
    return {task: _of_rooms(task, channels, data)[drawn].to(generator.device) for task, channels in tasks.items()}


def label(task: str, channels: int, data: Dataset, generator: Generator) -> Tensor:
    """That of one task. Where its loss ignores pixels, those of the last tenth of the rows are ignored."""
    return _of_rooms(task, channels, data)[_drawn(data, generator)].to(generator.device)


def ignored_rows(data: Dataset) -> int:
    """Rows at the bottom of a label that do not count."""
    return data.height // 10


def _drawn(data: Dataset, generator: Generator) -> Tensor:
    return torch.randint(_different(data), (data.batch,), generator=generator, device=generator.device).cpu()


def _different(data: Dataset) -> int:
    return min(data.batch, ROOMS)


def _of_rooms(task: str, channels: int, data: Dataset) -> Tensor:
    """A label for each of the different rooms."""
    found = torch.stack([_of_room(task, channels, room) for room in _rooms(_different(data), data.height, data.width)])
    loss = get_task(task).loss
    assert isinstance(loss, Loss)
    if loss.ignore is not None:
        found[..., -ignored_rows(data) :, :] = loss.ignore
    return found


@cache
def _rooms(number: int, height: int, width: int) -> list[Rendering]:
    rooms = Rooms("train", number, (height, width))
    return [rooms.rendering(i) for i in range(number)]


def _of_room(task: str, channels: int, room: Rendering) -> Tensor:
    """Human parts, which no room has, are its pieces of furniture."""
    if task == "semseg":
        return torch.from_numpy(room.semseg % channels)
    if task == "human_parts":
        return torch.from_numpy((room.semseg - _FIRST_PIECE + 1).clip(0, channels - 1))
    found = torch.from_numpy(getattr(room, task))
    return found if found.ndim == 3 else found[None]
