"""From checkpoints into training and scoring: of local files, weights and plain data alone, and those that fit."""

import math
import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import OutOfMemoryError, Tensor

from seqca.models.checkpoint import (
    CheckpointError,
    check_state,
    clean_key,
    describe,
    read_checkpoint,
    settings_of,
    without_wrappers,
)


class LoadsWeightsOnly:
    """A LightningModule or LightningDataModule whose `load_from_checkpoint` reads local files and runs no code."""

    # What a checkpoint cannot decide: it would lead to other files, other hosts or other code.
    given: ClassVar[dict[str, Any]] = {}

    @classmethod
    def load_from_checkpoint(cls, path: Any, *args: Any, weights_only: bool | None = None, **kwargs: Any) -> Any:
        """As Lightning's, of a local file; `weights_only=False` raises a ValueError."""
        refuse_code(weights_only)
        if isinstance(path, str | os.PathLike):
            read_checkpoint(path, mmap=True)  # and tells what is wrong with it: torch may advise to load without safety
        settings = {"_instantiator": None, **cls.given, **kwargs}
        return super().load_from_checkpoint(path, *args, weights_only=True, **settings)  # type: ignore[misc]


def refuse_code(weights_only: bool | None) -> None:
    if weights_only is False:
        raise ValueError("weights_only: got False, expected True: anything but weights and plain data can run code")


TRAINING = {"loops": Mapping, "callbacks": Mapping, "optimizer_states": list, "lr_schedulers": list}
"""The parts of a checkpoint that training alone goes on from."""

RESTORED_BY = {
    "resume_start": "pytorch-lightning_version",
    "restore_datamodule": "state of the data",
    "restore_model": "state_dict",
    "restore_callbacks": "callbacks",
    "restore_precision_plugin_state": "state of mixed precision",
    "restore_loops": "loops",
    "restore_optimizers": "optimizer_states",
    "restore_lr_schedulers": "lr_schedulers",
}
"""Which part of a checkpoint a method of Lightning's connector restores."""


def fit_state(
    checkpoint: dict[str, Any], tasks: Mapping[str, int], expected: Mapping[str, Tensor], protocol: str
) -> None:
    """Make the weights of a checkpoint ready for a module with the state `expected`, in place, or refuse them.

    Args:
        checkpoint: as Lightning writes it.
        tasks: of the module, auxiliary ones too.
        expected: the module's own state dict.
        protocol: of the module.

    Raises:
        CheckpointError: the checkpoint is of other tasks or of another protocol, or its weights do not fit or are not
            finite.
    """
    if "hyper_parameters" in checkpoint:
        settings = settings_of(checkpoint)
        if (other := settings.get("protocol", protocol)) != protocol:
            raise CheckpointError(
                f"checkpoint: got a run of protocol {other!s:.80}, expected one of {protocol}, which is --data.protocol"
            )
        trained = {**settings.get("tasks", {}), **(settings.get("auxiliary") or {})}
        if "tasks" in settings and list(trained.items()) != list(tasks.items()):
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


def check_training_state(checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that training cannot go on from, whatever its weights are.

    Raises:
        CheckpointError: one of the other parts is missing or of another kind, or an optimiser's numbers are not finite.
    """
    for part, kind in TRAINING.items():
        if not isinstance(checkpoint.get(part), kind):
            found = describe(checkpoint[part]) if part in checkpoint else "nothing"
            raise CheckpointError(f"{part}: got {found}, expected the state in which seqca fit left a run")
    if not checkpoint["optimizer_states"]:
        raise CheckpointError("optimizer_states: got none, expected at least one")
    try:
        broken = [name for name, number in optimizer_numbers(checkpoint) if not finite(number)]
    except (AttributeError, LookupError, TypeError, ValueError):
        raise CheckpointError("optimizer_states: got what no optimiser leaves, expected states and groups") from None
    if broken:
        raise CheckpointError(f"optimizer_states: got {broken[0]} not finite, expected finite numbers")


def broken_numbers(checkpoint: Mapping[str, Any]) -> str | None:
    """The first of a checkpoint's weights, or of its optimisers' numbers, that is not finite; None if all are."""
    numbers = [*checkpoint["state_dict"].items(), *optimizer_numbers(checkpoint)]
    return next((name for name, number in numbers if not finite(number)), None)


def optimizer_numbers(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the optimisers of a checkpoint compute with, by a name for messages."""
    for optimizer in checkpoint.get("optimizer_states", ()):
        for parameter, state in optimizer.get("state", {}).items():
            yield from ((f"{name} of parameter {parameter}", value) for name, value in state.items())
        yield from (("the learning rate", float(group["lr"])) for group in optimizer.get("param_groups", ()))


def finite(number: object) -> bool:
    if isinstance(number, Tensor):
        return bool(number.isfinite().all())
    return not isinstance(number, float) or math.isfinite(number)


def blamed(error: Exception, path: str | os.PathLike[str]) -> CheckpointError | None:
    """`error` as the fault of the checkpoint `path` from which a run goes on, with the file and the part of it; None
    if it is none."""
    if isinstance(error, CheckpointError):
        return error if str(path) in str(error) else CheckpointError(f"{path}: {error}")
    part = part_at_fault(error)
    if part is None:
        return None
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return CheckpointError(f"{path}: {part}: got what a run cannot go on from ({reason}), expected a file of seqca fit")


def part_at_fault(error: BaseException) -> str | None:
    """The part of a checkpoint of which `error` came while a run took it over; None if it came from elsewhere.

    What is wrong with a part cannot be foreseen, since callbacks and optimisers are anybody's. An optimiser's state
    shows only when it is used: where the error is raised there, and not in what it calls.
    """
    if isinstance(error, (MisconfigurationException, MemoryError, OutOfMemoryError)):  # of settings, of no state at all
        return None
    frames = traceback.extract_tb(error.__traceback__)
    for frame in frames:
        if Path(frame.filename).name == "checkpoint_connector.py" and frame.name in RESTORED_BY:
            return RESTORED_BY[frame.name]
    last = Path(frames[-1].filename)
    if last.parts[-3:-1] != ("torch", "optim"):
        return None
    return "lr_schedulers" if last.name == "lr_scheduler.py" else "optimizer_states"


def named(tasks: Mapping[str, int]) -> str:
    """Tasks with their numbers of channels, for messages."""
    return ", ".join(f"{task} ({channels})" for task, channels in tasks.items())
