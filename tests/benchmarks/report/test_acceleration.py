"""The tables of docs/acceleration.md, from result files alone."""

from pathlib import Path
from typing import Any

from benchmarks.acceleration.results import committed, nothing, save
from benchmarks.report.acceleration import tables
from benchmarks.report.pages import write_report

from .test_report import ROOT, example

WHERE = {"commit": "0123456789abcdef", "dirty": False, "processor": "A processor", "threads": 1, "torch": "2.14"}
BLOCK = "<!-- benchmarks:begin acceleration -->\n{}\n<!-- benchmarks:end acceleration -->\n"


def time(median: float, noise: float) -> dict[str, float]:
    return {"median": median, "noise": noise}


def found() -> dict[str, Any]:
    entry = {"size": [1, 480, 640], "environment": WHERE}
    kept = {"original": 2e9, "full": 1e9, "lazy": 5e8}
    times = {"original": time(2, 0.01), "full": time(1, 0.02), "lazy": time(0.5, 0.03)}
    losses = {"trainings": {"full": 0.2, "lazy": 0.31}, "steps": 30, "draws": 8}
    return nothing("Some net") | {
        "kept": {"semseg,depth": entry | {"trainings": kept}, "depth": entry | {"trainings": kept}},
        "time": {"depth": entry | {"trainings": times}},
        "losses": {"depth": entry | losses | {"size": [2, 64, 64]}},
    }


def test_bytes_times_and_losses_stand_beside_the_original_and_say_how_they_were_measured() -> None:
    text = tables([found()])
    assert "| Some net | semseg, depth | 1×480×640 | 2,000 MB | 1,000 MB (0.50×) | 500 MB (0.25×) | 01234567 |" in text
    assert "|  | depth | 1×480×640 | 2,000 MB | 1,000 MB" in text
    assert "| Some net | depth | 1×480×640 | 2.00 s | 0.50× ± 3% | 0.25× ± 4% | 01234567 |" in text
    assert "| Some net | depth | 2×64×64 | 0.20 | 0.31 | 01234567 |" in text
    assert text.count("; float32. A processor, 1 thread; torch 2.14.") == 3
    assert "losses of 30 steps of Adam" in text and "what 8 draws" in text


def test_what_was_not_measured_has_no_table() -> None:
    assert tables([]) == tables([nothing("Some net")]) == ""
    assert tables([found() | {"time": {}}]).count("| code base |") == 2


def test_a_report_fills_the_block_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "acceleration.md"
    page.parent.mkdir()
    page.write_text(BLOCK.format("old"))
    result = tmp_path / "machine.json"
    save(example(), result)
    assert write_report([result], tmp_path, check=True) == 1 and page.read_text() == BLOCK.format("old")
    write_report([result], tmp_path)
    assert page.read_text() == BLOCK.format("Nothing is measured yet.")
    save(found(), tmp_path / "benchmarks" / "results" / "acceleration" / "some.json")
    write_report([result], tmp_path)
    assert page.read_text() == BLOCK.format(tables([found()]))
    assert write_report([result], tmp_path, check=True) == 0


def test_the_page_shows_the_committed_results() -> None:
    text = tables(committed())
    shown = BLOCK.format(text or "Nothing is measured yet.")
    assert shown in (ROOT / "docs" / "acceleration.md").read_text(), "run python -m benchmarks report"
