"""From a checkpoint file to a network that predicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seqca.models import SequentialCrossAttentionNet, from_published_state, published_tasks

NETWORK = "network."


def load_network(path: str | Path) -> tuple[SequentialCrossAttentionNet, dict[str, list[str]]]:
    """The network of a checkpoint, in evaluation mode on the CPU, and {task: names of its classes} where known.

    Only tensors and plain data are read from the file, no code.

    Args:
        path: a checkpoint of `seqca fit`, or one in the published format.

    Raises:
        ValueError: the file is neither.
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
        network = SequentialCrossAttentionNet(
            settings["tasks"], settings["auxiliary"], settings["backbone"], drop_path=settings["drop_path"]
        )
        state = {
            key.removeprefix(NETWORK): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith(NETWORK)
        }
        class_names = settings["class_names"]
    else:
        tasks, auxiliary = published_tasks(checkpoint)
        network = SequentialCrossAttentionNet(tasks, auxiliary)
        state, class_names = from_published_state(checkpoint), None
    network.load_state_dict(state)
    return network.eval(), class_names or {}
