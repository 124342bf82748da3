"""Tables and plots from result files and nothing else."""

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import BLOCKS, PAGES, filled, write_report
from benchmarks.results import ResultsError, load, save
from benchmarks.shapes import CHANNELS

from .fakes import FakeTime, doubling, results_of

ROOT = Path(__file__).resolve().parents[2]


def example() -> dict[str, Any]:
    """A result with a case of every kind, made of one measured case."""
    time = FakeTime()
    results = results_of(doubling(time, reference=1.0, aten=0.5, wrong=0.1, absent={"cuda": "not built"}), time=time)
    ((_, case),) = results["cases"].items()
    case["providers"]["wrong"] = {"check": {"ok": False, "worst": 9.0, "what": "largest | error"}}
    cases: dict[str, Any] = {}

    def add(operator: str, shape: str, sizes: dict[str, int], **renamed: str) -> None:
        record = copy.deepcopy(case) | {"operator": operator, "shape": shape, "sizes": sizes}
        for old, new in renamed.items():
            record["providers"][new] = record["providers"].pop(old)
        cases[f"{operator}/{shape}/fp32/both"] = record

    images = {"tasks": 4, "batch": 1, "height": 480, "width": 640}
    add("network", "training-nyud-tasks4", images, aten="auto")
    for tokens in (1024, 2048):
        add("linear_attention", f"tokens/{tokens}", {"tokens": tokens, "channels": 36})
    for tasks in (2, 3):
        sizes = {"tasks": tasks, "scales": len(CHANNELS)}
        add("claim", f"tasks{tasks}-scales4", sizes, aten="sequential", reference="at once")
    results["cases"] = cases
    return results


def pages(folder: Path, *names: str) -> Path:
    """A folder with pages that hold these blocks."""
    (folder / "docs").mkdir()
    for page in PAGES:
        blocks = [f"<!-- benchmarks:begin {name} -->\nold\n<!-- benchmarks:end {name} -->" for name in names]
        (folder / page).write_text("before\n\n" + "\n\n".join(blocks) + "\n\nafter\n")
    return folder


def test_the_report_fills_every_block_and_draws_plots_and_is_the_same_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, file = pages(tmp_path, *BLOCKS), tmp_path / "machine.json"
    save(example(), file)
    assert write_report([file], root) == 0
    text = (root / "README.md").read_text()
    assert "\nold\n" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| `seqca` | 40 B | 3 | 0.50 ± 0% |" in text
    assert "| tokens/1024/fp32/both | aten | 0.50 ± 0% |" in text
    assert "no numbers: largest / error" in text
    assert "| linear_attention: cuda | not built | 2 |" in text
    assert "from 2 tasks on" in text
    plots = {path.name: path.read_bytes() for path in (root / "docs" / "plots").iterdir()}
    assert plots.keys() == {f"machine-{name}.png" for name in ("roofline", "tokens", "claim")}
    for name in plots:
        assert f"plots/{name}" in text
    assert write_report([file], root, check=True) == 0
    write_report([file], root)
    assert (root / "README.md").read_text() == text
    assert all((root / "docs" / "plots" / name).read_bytes() == content for name, content in plots.items())


def test_a_page_that_is_not_up_to_date_is_found_and_left_alone(tmp_path: Path) -> None:
    root, file = pages(tmp_path, "cpu"), tmp_path / "machine.json"
    save(example(), file)
    old = (root / "README.md").read_text()
    assert write_report([file], root, check=True) == 1
    assert (root / "README.md").read_text() == old


def test_a_difference_inside_the_noise_is_marked() -> None:
    results = example()
    case = results["cases"]["network/training-nyud-tasks4/fp32/both"]
    assert "0.50 ± 0% |" in filled("<!-- benchmarks:begin cpu -->\n<!-- benchmarks:end cpu -->", {"a": results})
    case["providers"]["auto"]["time"]["noise"] = 1.5
    assert "(noise) |" in filled("<!-- benchmarks:begin cpu -->\n<!-- benchmarks:end cpu -->", {"a": results})


def test_on_a_cpu_no_time_stands_without_its_rival() -> None:
    text = filled("<!-- benchmarks:begin network -->\n<!-- benchmarks:end network -->", {"a": example()})
    assert "ms" not in text


def test_an_unknown_block_and_no_result_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="nonsense"):
        filled("<!-- benchmarks:begin nonsense -->\n<!-- benchmarks:end nonsense -->", {})
    with pytest.raises(ResultsError, match="no result files"):
        write_report([])


def test_the_pages_show_the_committed_results() -> None:
    results = {file.stem: load(file) for file in sorted((ROOT / "benchmarks" / "results").glob("*.json"))}
    for name in PAGES:
        page = (ROOT / name).read_text()
        assert filled(page, results) == page, f"{name}: run python -m benchmarks report"
