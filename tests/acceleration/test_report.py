"""What a report shows."""

import re

from seqca.acceleration import Kept, Replaced, Report
from seqca.acceleration.report import Error


def part(path: str, kept: tuple[int, int] = (4000, 1000), kind: str = "tests.head", called: str = "a") -> Replaced:
    own, error = Error(kept[1] / 1e4, path), Error(0.5, "loss")
    return Replaced(f"model.{path}", "Head", kind, (called,), own, error, Kept(*kept))


def rows_of(report: Report, table: str) -> list[list[str]]:
    """The cells of a table of a report, by the beginning of its header."""
    (block,) = [each for each in str(report).split("\n\n") if each.startswith(table)]
    return [re.split("  +", line) for line in block.splitlines()[2:]]


def test_every_part_has_a_row_and_every_kind_its_largest_error() -> None:
    report = Report([part("a"), part("b", (6000, 2000)), part("c", called="b")], [])
    assert rows_of(report, "replaced") == [
        ["model.a", "Head", "tests.head", "a", "4 kB → 1 kB", "0.1"],
        ["model.b", "Head", "tests.head", "a", "6 kB → 2 kB", "0.2"],
        ["model.c", "Head", "tests.head", "b", "4 kB → 1 kB", "0.1"],
    ]
    assert rows_of(report, "kind") == [["tests.head", "0.5 (loss)"]]


def test_parts_that_keep_more_than_before_are_listed_by_what_skip_takes() -> None:
    light, heavy = part("a"), part("b", (4000, 9000))
    other = [part("c", (4000, 5000), "tests.other"), part("d", (4000, 6000), "tests.other")]
    assert rows_of(Report([light, heavy, *other], []), "keeps more than before: leave out by `skip`") == [
        ["model.b", "4 kB → 9 kB"],
        ["tests.other", "4 kB → 5 kB to 6 kB"],
    ]
    assert "keeps more" not in str(Report([light], []))
