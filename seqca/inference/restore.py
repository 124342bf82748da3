"""From a checkpoint file to a network that predicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seqca.models import SequentialCrossAttentionNet, from_published_state, published_tasks
from seqca.tasks import get_task

NETWORK = "network."
SETTINGS = ("tasks", "auxiliary", "backbone", "drop_path", "class_names")


def load_network(path: str | Path) -> tuple[SequentialCrossAttentionNet, dict[str, list[str]]]:
    """The network of a checkpoint, in evaluation mode on the CPU, and {task: names of its classes} where known.

    Only tensors and plain data are read from the file, no code.

    Args:
        path: a checkpoint of `seqca fit`, or one in the published format.

    Raises:
        ValueError: the file is neither, its weights do not fit, or one of its tasks is not registered.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        checkpoint: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error
    if isinstance(checkpoint, Mapping) and "hyper_parameters" in checkpoint:
        settings = checkpoint["hyper_parameters"]
        if missing := [f"setting {name!r}" for name in SETTINGS if name not in settings]:
            raise ValueError(f"{path} is not a checkpoint of seqca fit: it has no {', '.join(missing)}")
        tasks, auxiliary = settings["tasks"], settings["auxiliary"]
        network = SequentialCrossAttentionNet(
            tasks,
            auxiliary,
            settings["backbone"],
            drop_path=settings["drop_path"],
            cross_task=settings.get("cross_task", True),
            cross_scale=settings.get("cross_scale", True),
        )
        weights = checkpoint.get("state_dict", {})
        state = {key.removeprefix(NETWORK): value for key, value in weights.items() if key.startswith(NETWORK)}
        class_names = settings["class_names"]
    else:
        tasks, auxiliary = published_tasks(checkpoint)
        network = SequentialCrossAttentionNet(tasks, auxiliary)
        state, class_names = from_published_state(checkpoint), None
    for task in tasks:
        get_task(task)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit its settings: {error}") from error
    return network.eval(), class_names or {}
