"""Result files."""

import json
from pathlib import Path

import pytest

from benchmarks.harness.results import ResultsError, counted, load


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"format": 3}))
    with pytest.raises(ResultsError, match="expected a result file of format 2"):
        load(tmp_path / "other.json")


def test_numbers_agree_with_what_they_count() -> None:
    assert [counted(number, "case") for number in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
