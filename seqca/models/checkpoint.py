"""Reading checkpoint files, which anybody may have written: no code runs, and what does not fit is refused."""

import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LISTED = 8  # how many of many differences a message names


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: no local file, damaged, of another program, or with weights that do not fit."""


def read_checkpoint(path: str | os.PathLike[str], mmap: bool = False) -> dict[str, Any]:
    """What is in a checkpoint file, on the CPU. Only tensors and plain data are read, no code.

    Args:
        path: a local file.
        mmap: read tensors when they are used, where the file's format allows it.

    Raises:
        CheckpointError: it is no local file, cannot be read, or holds anything but a dict of tensors and plain data.
    """
    path = checked_file(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    # What torch raises depends on the damage. Its messages are not passed on: some advise to load without safety.
    except Exception as error:
        raise CheckpointError(f"checkpoint: got {path}, {_what_is_wrong(error)}") from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"checkpoint: got {path} with a {type(checkpoint).__name__} in it, expected a dict")
    return checkpoint


def checked_file(path: str | os.PathLike[str]) -> Path:
    """`path` if it leads to a file here.

    Raises:
        CheckpointError: it does not; where it looks like an address, with the advice to download the file.
    """
    if os.path.isfile(path):
        return Path(path)
    # fsspec, with which Lightning opens files, chains addresses by "::" and reads "data:" and the like too.
    if re.match(r"\w[\w+.-]+:", str(path)):
        raise CheckpointError(f"checkpoint: got the address {path}, expected a local file: download it first")
    if os.path.isdir(path):
        raise CheckpointError(f"checkpoint: got the folder {path}, expected a file")
    found = "a device" if os.path.exists(path) else "which is not there"
    raise CheckpointError(f"checkpoint: got {path}, {found}, expected a file")


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"which cannot be read: {error.strerror}"
    return f"which {wrong_contents(str(error))}"


def wrong_contents(text: str) -> str:
    """What is wrong with a file of which `torch.load` says this, and what was expected."""
    if found := re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", text):
        return f"holds {found[1]}, expected tensors and plain data alone: anything else can run code and is not loaded"
    return "is damaged or no checkpoint of torch, expected a file written by torch.save"


def settings_of(checkpoint: Mapping[str, Any], required: Iterable[str] = ()) -> Mapping[str, Any]:
    """The settings, `hyper_parameters`, of a checkpoint of `seqca fit`.

    Raises:
        CheckpointError: they are no mapping, lack one of `required`, or their tasks are not {name: channels}.
    """
    settings = checkpoint["hyper_parameters"]
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"hyper_parameters: got {type(settings).__name__}, expected a mapping")
    if missing := [name for name in required if name not in settings]:
        raise CheckpointError(f"hyper_parameters: got no {', '.join(missing)}, expected those of seqca fit")
    for name in ("tasks", "auxiliary"):
        tasks = settings.get(name)
        if tasks is None and (name == "auxiliary" or name not in settings):
            continue
        if not isinstance(tasks, Mapping) or any(
            not isinstance(task, str) or type(channels) is not int for task, channels in tasks.items()
        ):
            raise CheckpointError(f"hyper_parameters: got {tasks!r:.80} as {name}, expected {{name: channels}}")
    return settings


def without_wrappers(state: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The part of a state dict whose keys begin with `prefix`, by their rest, see `clean_key`.

    Raises:
        CheckpointError: a key is no string, or there twice afterwards.
    """
    result: dict[str, Any] = {}
    for original, value in state.items():
        if not isinstance(original, str):
            raise CheckpointError(f"checkpoint: got the key {original!r} among the weights, expected strings")
        key = clean_key(original)
        if not key.startswith(prefix):
            continue
        key = key.removeprefix(prefix)
        if key in result:
            raise CheckpointError(f"checkpoint: got {key} twice, expected every weight once")
        result[key] = value
    return result


def clean_key(key: str) -> str:
    """A key of a state dict without what wrappers of modules put there: "_orig_mod." of torch.compile anywhere, and
    "module." of DistributedDataParallel in front of all, or of the network in a checkpoint of `seqca fit`."""
    parts = [part for part in key.split(".") if part != "_orig_mod"]
    while parts[:1] == ["module"]:
        del parts[0]
    while parts[:2] == ["network", "module"]:
        del parts[1]
    return ".".join(parts)


def check_state(state: Mapping[str, Any], expected: Mapping[str, Tensor], owner: str) -> None:
    """Refuse a state dict that is not one of `expected`'s keys, shapes and kinds of numbers, or not finite.

    Args:
        state: the state dict.
        expected: one that fits; its values are not looked at and may be on the meta device.
        owner: what it should fit, for the message.

    Raises:
        CheckpointError: with the first differences and how many there are.
    """
    wrong = [f"missing: {key}" for key in expected if key not in state]
    wrong += [f"unknown: {key}" for key in state if key not in expected]
    for key, like in expected.items():
        if key not in state:
            continue
        value = state[key]
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type == "meta":
            wrong.append(f"{key}: got {describe(value)}, expected a tensor")
        elif value.shape != like.shape:
            wrong.append(f"{key}: got the shape {tuple(value.shape)}, expected {tuple(like.shape)}")
        elif value.is_floating_point() != like.is_floating_point() or value.is_complex():
            wrong.append(f"{key}: got {value.dtype}, expected {like.dtype}")
        elif value.is_floating_point() and not value.to(like.dtype).isfinite().all():  # as they will be used
            wrong.append(f"{key}: got numbers that are not finite in {like.dtype}, expected finite ones")
        elif key.endswith("running_var") and (value.to(like.dtype) < 0).any():
            wrong.append(f"{key}: got negative numbers, expected variances")
    if wrong:
        more = [f"and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        raise CheckpointError(
            "\n  ".join([f"checkpoint: got other weights, expected those of {owner}", *wrong[:LISTED], *more])
        )


def describe(value: object) -> str:
    """The kind of a value out of a file, for messages."""
    return f"a {value.layout} tensor on {value.device}" if isinstance(value, Tensor) else type(value).__name__
