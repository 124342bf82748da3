"""What `python -m benchmarks accelerate --output FILE` found, in one JSON file for each code base."""

import json
from pathlib import Path
from typing import Any

from ..harness.environment import ROOT
from ..harness.results import ResultsError, write

FOLDER = Path("benchmarks", "results", "acceleration")
"""Of the committed files, below the root of the repository."""
SECTIONS = ("kept", "time", "losses")
"""Bytes kept for backward; times of a step; errors of losses as fractions of what is allowed. By tasks, each with the
settings and the environment that it was measured with."""
ORIGINAL = "original"
OUTPUTS = ("full", "lazy")
"""How `accelerate` is told to hand final predictions to losses."""
FORMAT = 1

Found = dict[str, Any]


def nothing(name: str) -> Found:
    """Results of a code base, none yet."""
    return {"format": FORMAT, "code base": name, **{section: {} for section in SECTIONS}}


def load(path: Path) -> Found:
    """Reads a file.

    Raises:
        ResultsError: there is none, or it is not one of these.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: got no readable file, expected one of accelerated trainings: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or not {"code base", *SECTIONS} <= found.keys():
        raise ResultsError(f"{path}: got another kind of file, expected one of accelerated trainings")
    return found


def opened(path: Path, name: str) -> Found:
    """What a file already has of a code base, to add to; nothing, if there is no file.

    Raises:
        ResultsError: it is of another code base, or no such file.
    """
    found = load(path) if path.exists() else nothing(name)
    if found["code base"] != name:
        raise ResultsError(f"--output: got {path} of {found['code base']}, expected one of {name}, or a new one")
    return found


def save(found: Found, path: Path) -> None:
    """Writes a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(json.dumps(found, indent=1, ensure_ascii=False) + "\n", path)


def committed(root: Path = ROOT) -> list[Found]:
    """The files of the repository, by name."""
    return [load(path) for path in sorted((root / FOLDER).glob("*.json"))]
