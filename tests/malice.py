"""Malicious files that could be offered as checkpoints."""

import os
from pathlib import Path
from typing import Any

import torch


class Command:
    """Unpickled, it creates a file: the sign that a checkpoint was allowed to run code."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sign),)


def write_malicious(path: Path, sign: Path, **content: Any) -> Path:
    """A checkpoint that creates the folder `sign` when a full unpickler reads it."""
    torch.save({**content, "extra": Command(sign)}, path)
    return path
