"""Result files, also those of the first format."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.results import ResultsError, counted, load


def case(operator: str, *providers: str, absent: str) -> dict[str, Any]:
    return {"operator": operator, "providers": {name: {} for name in providers}, "absent": {absent: "needs a GPU"}}


def test_a_result_of_the_first_format_is_read_in_the_names_of_the_present_one(tmp_path: Path) -> None:
    cases = {
        "softplus/a/fp32/both": case("softplus", "reference", "aten", absent="cuda"),
        "claim/tasks2-scales4/fp32/both": case("claim", "sequential", "at once", absent="at once, graph"),
    }
    old = {"format": 1, "environment": {}, "settings": {}, "limits": {}, "cases": cases}
    (tmp_path / "old.json").write_text(json.dumps(old))
    results = load(tmp_path / "old.json")
    softplus, schemes = results["cases"].values()
    assert list(results["cases"]) == ["softplus/a/fp32/both", "attention_schemes/tasks2-scales4/fp32/both"]
    assert (softplus["operator"], softplus["baseline"]) == ("softplus", "reference")
    assert softplus["unavailable"] == {"cuda": "needs a GPU"}
    assert (schemes["operator"], schemes["baseline"]) == ("attention_schemes", "sequential")
    assert list(schemes["providers"]) == ["sequential", "joint"]
    assert schemes["unavailable"] == {"joint, graph": "needs a GPU"}
    (tmp_path / "new.json").write_text(json.dumps(results))
    assert load(tmp_path / "new.json") == results


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"format": 3}))
    with pytest.raises(ResultsError, match="expected format 1 or 2"):
        load(tmp_path / "other.json")


def test_numbers_agree_with_what_they_count() -> None:
    assert [counted(number, "case") for number in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
