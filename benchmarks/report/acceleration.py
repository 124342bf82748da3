"""Tables of docs/acceleration.md: trainings of other code bases as they are and accelerated."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..acceleration.results import ORIGINAL, OUTPUTS, Found
from ..harness.results import counted
from .tables import markdown

NAMES = {ORIGINAL: "as it is", "full": "accelerated", "lazy": "with lazy outputs"}
"""What readers call these trainings."""

Entry = dict[str, Any]
"""What was found of a training of certain tasks."""


class _Table(NamedTuple):
    section: str
    """Of the files, see `SECTIONS`."""
    columns: tuple[str, ...]
    """Trainings."""
    cells: Callable[[Entry], Iterator[str]]
    """Of these columns."""
    caption: Callable[[Entry], str]


def tables(found: Iterable[Found]) -> str:
    """Those for which there is anything: bytes kept, times, errors of losses."""
    several = list(found)
    return "\n\n".join(text for table in _TABLES if (text := _filled(table, several)))


def _filled(table: _Table, found: Iterable[Found]) -> str:
    rows: list[list[str]] = []
    captions: dict[str, None] = {}  # each once, in order
    for each in found:
        for i, (tasks, entry) in enumerate(each[table.section].items()):
            where = entry["environment"]
            commit = f"{str(where['commit'])[:8]}{' with changes' if where['dirty'] else ''}"
            batch = "×".join(map(str, entry["size"]))
            name = "" if i else each["code base"]
            rows.append([name, tasks.replace(",", ", "), batch, *table.cells(entry), commit])
            conditions = f"{where['processor']}, {counted(where['threads'], 'thread')}; torch {where['torch']}"
            captions[f"{table.caption(entry)}; float32. {conditions}."] = None
    header = ("code base", "tasks", "images", *(NAMES[name] for name in table.columns), "commit")
    return "\n\n".join([markdown(header, rows), *captions]) if rows else ""


def _kept(entry: Entry) -> Iterator[str]:
    before = entry["trainings"][ORIGINAL]
    yield _megabytes(before)
    for name in OUTPUTS:
        after = entry["trainings"][name]
        yield f"{_megabytes(after)} ({after / before:.2f}×)"


def _time(entry: Entry) -> Iterator[str]:
    before = entry["trainings"][ORIGINAL]
    yield f"{before['median']:.2f} s"
    for name in OUTPUTS:
        after = entry["trainings"][name]
        yield f"{after['median'] / before['median']:.2f}× ± {before['noise'] + after['noise']:.0%}"


def _losses(entry: Entry) -> Iterator[str]:
    for name in OUTPUTS:
        yield f"{entry['trainings'][name]:.2f}"


def _caption_of_losses(entry: Entry) -> str:
    return (
        f"Largest error of the losses of {entry['steps']} steps of Adam, as a fraction of what {entry['draws']} draws"
        " of the original's error allow"
    )


_TABLES = (
    _Table(
        "kept",
        (ORIGINAL, *OUTPUTS),
        _kept,
        lambda _: "Kept for backward by a step without its optimiser",
    ),
    _Table(
        "time",
        (ORIGINAL, *OUTPUTS),
        _time,
        lambda _: "Time of a step without its optimiser, in turns in one process, ± noise",
    ),
    _Table("losses", OUTPUTS, _losses, _caption_of_losses),
)


def _megabytes(number: float) -> str:
    return f"{number / 1e6:,.0f} MB"
