"""From a checkpoint file to a network that predicts."""

import os
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

import torch

from seqca.models import SequentialCrossAttentionNet, from_published_state, published_tasks
from seqca.models.checkpoint import CheckpointError, check_state, read_checkpoint, settings_of, without_wrappers
from seqca.tasks import available_tasks

ClassNames = dict[str, list[str]]

NETWORK = "network."  # where a checkpoint of `seqca fit` has the network
REQUIRED = ("tasks", "auxiliary", "backbone", "drop_path", "class_names")
SWITCHES = tuple(
    name for name, x in signature(SequentialCrossAttentionNet.__init__).parameters.items() if x.default is True
)
"""Arguments of the network that leave out a part of it."""


def load_network(path: str | os.PathLike[str]) -> tuple[SequentialCrossAttentionNet, ClassNames]:
    """The network of a checkpoint, in evaluation mode on the CPU, and {task: names of its classes} where known.

    Only tensors and plain data are read from the file, no code, and nothing it says leads anywhere else.

    Args:
        path: a checkpoint of `seqca fit`, one in the published format, or a folder that `save_pretrained` wrote; local.

    Raises:
        CheckpointError: the file is neither, damaged, or one of its tasks is not registered; its weights do not fit or
            are not finite. It is a ValueError.
    """
    folder = os.path.isdir(path)
    checkpoint = {} if folder else read_checkpoint(path)
    try:
        network, class_names = restore_folder(path) if folder else restore(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    # The settings are anybody's: what they make the constructor raise cannot be foreseen, but is the file's fault.
    except Exception as error:
        raise CheckpointError(
            f"{path}: checkpoint: got what makes no network, expected settings that do: {error}"
        ) from error
    network.class_names = class_names
    return network.eval(), class_names


def restore_folder(path: str | os.PathLike[str]) -> tuple[SequentialCrossAttentionNet, ClassNames]:
    network = SequentialCrossAttentionNet.from_pretrained(os.fspath(path), local_files_only=True)
    check_registered(network.tasks)
    return network, checked_class_names(network.class_names)


def restore(checkpoint: Mapping[str, Any]) -> tuple[SequentialCrossAttentionNet, ClassNames]:
    class_names: ClassNames = {}
    if "hyper_parameters" in checkpoint:
        settings = settings_of(checkpoint, REQUIRED)
        weights = checkpoint.get("state_dict")
        if not isinstance(weights, Mapping):
            raise CheckpointError(f"state_dict: got {type(weights).__name__}, expected a mapping of weights")
        state = without_wrappers(weights, NETWORK)
        class_names = checked_class_names(settings["class_names"])
        arguments = {name: settings[name] for name in ("tasks", "auxiliary", "backbone", "drop_path")}
        arguments |= {name: settings[name] for name in SWITCHES if name in settings}
        for name in SWITCHES:
            if not isinstance(arguments.get(name, True), bool):
                raise CheckpointError(f"{name}: got {arguments[name]!r:.80}, expected true or false")
        for task in [*arguments["tasks"], *(arguments["auxiliary"] or ())]:
            # So that what is built is no larger than what is in the file.
            if f"features.3.prediction.{task}.weight" not in state:
                raise CheckpointError(
                    f"state_dict: got no weights of the task {task!r}, expected those of all in its settings"
                )
        with torch.device("meta"):
            expected = SequentialCrossAttentionNet(**arguments).state_dict()
        check_state(state, expected, "the file's settings")
    else:
        tasks, auxiliary = published_tasks(checkpoint)
        arguments = {"tasks": tasks, "auxiliary": auxiliary}
        state = from_published_state(checkpoint)
        check_state(state, state, "the published format")
    check_registered(arguments["tasks"])
    network = SequentialCrossAttentionNet(**arguments)
    network.load_state_dict(state)
    return network, class_names


def check_registered(tasks: Iterable[str]) -> None:
    if unknown := [task for task in tasks if task not in available_tasks()]:
        raise CheckpointError(
            f"tasks: got {', '.join(unknown)}, expected some of {', '.join(available_tasks())}; a module that "
            "registers others is to be imported first (seqca predict --import)"
        )


def checked_class_names(names: object) -> ClassNames:
    """`names` if it is {task: names of its classes}; none of them if it is None."""
    if names is None:
        return {}
    if not isinstance(names, Mapping):
        raise CheckpointError(f"class_names: got {type(names).__name__}, expected {{task: names}}")
    for task, classes in names.items():
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise CheckpointError(f"class_names: got {classes!r:.80} for {task!r}, expected a list of strings")
    return dict(names)
