"""From checkpoints into training and scoring: of local files, weights and plain data alone, and those that fit."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from seqca.models.checkpoint import CheckpointError, check_state, checked_file, clean_key, without_wrappers


class LoadsWeightsOnly:
    """A LightningModule or LightningDataModule whose `load_from_checkpoint` reads local files and runs no code."""

    # What a checkpoint cannot decide: it would lead to other files, other hosts or other code.
    given: ClassVar[dict[str, Any]] = {}

    @classmethod
    def load_from_checkpoint(cls, path: Any, *args: Any, weights_only: bool | None = None, **kwargs: Any) -> Any:
        """As Lightning's, of a local file; `weights_only=False` raises a ValueError."""
        refuse_code(weights_only)
        if isinstance(path, str | os.PathLike):
            checked_file(path)
        settings = {"_instantiator": None, **cls.given, **kwargs}
        return super().load_from_checkpoint(path, *args, weights_only=True, **settings)  # type: ignore[misc]


def refuse_code(weights_only: bool | None) -> None:
    if weights_only is False:
        raise ValueError("weights_only: got False, expected True: anything but weights and plain data can run code")


def fit_state(checkpoint: dict[str, Any], tasks: Mapping[str, int], expected: Mapping[str, Tensor]) -> None:
    """Make the weights of a checkpoint ready for a module with the state `expected`, in place, or refuse them.

    Args:
        checkpoint: as Lightning writes it.
        tasks: of the module, auxiliary ones too.
        expected: the module's own state dict.

    Raises:
        CheckpointError: the checkpoint is of other tasks, or its weights do not fit or are not finite.
    """
    settings = checkpoint.get("hyper_parameters")
    if isinstance(settings, Mapping) and isinstance(settings.get("tasks"), Mapping):
        trained = {**settings["tasks"], **(settings.get("auxiliary") or {})}
        if list(trained.items()) != list(tasks.items()):
            raise CheckpointError(
                f"checkpoint: got the tasks {named(trained)}, expected those of this run, {named(tasks)}"
            )
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        raise CheckpointError("checkpoint: got no state_dict, expected a checkpoint of seqca fit")
    found = without_wrappers(state)
    # By the names of the module's own keys: it may be wrapped itself.
    own = {clean_key(key): key for key in expected}
    checkpoint["state_dict"] = {own.get(key, key): value for key, value in found.items()}
    check_state(found, {key: expected[name] for key, name in own.items()}, "this network")


def named(tasks: Mapping[str, int]) -> str:
    """Tasks with their numbers of channels, for messages."""
    return ", ".join(f"{task} ({channels})" for task, channels in tasks.items())
