"""Result files: one JSON file a run, written case by case."""

import json
import os
from pathlib import Path
from typing import Any

from .environment import same_conditions

FORMAT = 2


class ResultsError(ValueError):
    """A result file that cannot be used for what is asked; the message says why."""


def new_results(environment: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Results without any case yet. `seconds` is how long measuring them took, over all runs."""
    empty = {"seconds": 0.0, "limits": None, "cases": {}}
    return {"format": FORMAT, "environment": environment, "settings": settings, **empty}


def load(path: Path) -> dict[str, Any]:
    """Reads a result file.

    Raises:
        ResultsError: if there is none, or it is not one of these.
    """
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError) as error:  # no text, no JSON
        raise ResultsError(f"{path}: got no readable file, expected a result file: {error}") from error
    keys = {"environment", "settings", "limits", "cases"}
    if not isinstance(results, dict) or results.get("format") != FORMAT or not keys <= results.keys():
        raise ResultsError(f"{path}: got another kind of file, expected a result file of format {FORMAT}")
    return results


def save(results: dict[str, Any], path: Path) -> None:
    """Writes a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(json.dumps(results, indent=1, ensure_ascii=False) + "\n", path)


def write(text: str, path: Path) -> None:
    """Writes a file under a temporary name and renames it, so that it is never half written."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)


def counted(number: int, what: str) -> str:
    """A number of things, in words that agree."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def resume(path: Path, environment: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The results of an interrupted run, if it was on the same machine, software and source; else new ones.

    Raises:
        ResultsError: if the file was measured under other conditions, which it names.
    """
    if not path.exists():
        return new_results(environment, settings)
    results = load(path)
    differing = same_conditions(results["environment"], environment)
    if results["settings"] != settings:
        differing.append("settings")
    if differing:
        raise ResultsError(
            f"{path}: got results under other conditions ({', '.join(sorted(differing))}), expected the present ones; "
            "name another --output, or remove it"
        )
    return results
