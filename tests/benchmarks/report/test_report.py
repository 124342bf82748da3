"""Tables and plots from result files and nothing else."""

import copy
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from benchmarks.cases.shapes import CHANNELS
from benchmarks.harness.results import ResultsError, load, save
from benchmarks.report.pages import BLOCKS, PAGES, cases_of, filled, write_own_report, write_report
from benchmarks.report.plots import PLOTS
from benchmarks.report.tables import crossing

from ..fakes import FakeTime, doubling, results_of

ROOT = Path(__file__).resolve().parents[3]


def example() -> dict[str, Any]:
    """A result with a case of every kind, made of one measured case."""
    time = FakeTime()
    results = results_of(
        doubling(time, reference=1.0, aten=0.5, wrong=0.1, unavailable={"cuda": "not built"}), time=time
    )
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
        add("attention_schemes", f"tasks{tasks}-scales4", sizes, aten="sequential", reference="joint")
    results["cases"] = cases
    return results


def pages(folder: Path, *names: str) -> Path:
    """A folder with pages that hold these blocks."""
    (folder / "docs").mkdir()
    for page in PAGES:
        blocks = [f"<!-- benchmarks:begin {name} -->\nold\n<!-- benchmarks:end {name} -->" for name in names]
        (folder / page).write_text("before\n\n" + "\n\n".join(blocks) + "\n\nafter\n")
    return folder


def against_published(kept: int, **shapes: str) -> dict[str, Any]:
    """A result whose cases, operators by shape, have the published sequence, which takes twice the time."""
    results = example()
    case = results["cases"]["linear_attention/tokens/1024/fp32/both"]
    providers = {"published": copy.deepcopy(case["providers"]["reference"]), "aten": case["providers"]["aten"]}
    providers["published"]["kept_bytes"] = kept
    cases = {}
    for shape, operator in shapes.items():
        axis, _, number = shape.partition("_")
        sizes = {axis: int(number)} if number.isdigit() else {}
        name = f"{axis}/{number}" if sizes else shape.replace("_", "-")
        record = {"operator": operator, "shape": name, "sizes": sizes, "baseline": "published", "providers": providers}
        cases[f"{operator}/{name}/fp32/both"] = case | record
    return results | {"cases": cases}


def test_goals_say_what_was_measured_and_whether_it_is_enough() -> None:
    shapes = {"nyud_outputs1": "aggregation_head", "nyud_scale0_tasks4": "cross_attention"}
    text = BLOCKS["goals"]({"one": against_published(400, **shapes)})
    assert "| `aggregation_head`, nyud-outputs1: time | 0.5 | 0.50 ± 1% | yes, within noise |" in text
    assert "| `aggregation_head`, nyud-outputs1: kept | 0.0833 | 0.100 | no |" in text
    assert "| `cross_attention`, nyud-scale0-tasks4: time | 1 | 0.50 ± 1% | yes |" in text
    assert "| `cross_attention`, nyud-scale0-tasks4: kept | 0.125 | 0.100 | yes |" in text


def test_growth_goes_from_the_network_to_sweeps_in_order_of_size() -> None:
    shapes = dict.fromkeys(("tasks_3", "tasks_2", "nyud_scale0_tasks4"), "cross_attention")
    text = BLOCKS["growth-cross_attention"]({"one": against_published(80, **shapes)})
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        f"| {name} | 0.50 ± 1% | 80 B | 40 B | 0.500 |" for name in ("nyud-scale0-tasks4", "2 tasks", "3 tasks")
    ]


def test_nothing_stands_where_no_operator_was_measured_against_the_published_sequence() -> None:
    assert BLOCKS["goals"]({"one": example()}) == BLOCKS["growth-aggregation_head"]({"one": example()}) == ""


def captured(baseline: str, operator: str) -> str:
    """The table of one operator whose baseline and backend were captured."""
    results = against_published(80, nyud=operator)
    (case,) = results["cases"].values()
    aten, published = case["providers"]["aten"], case["providers"]["published"]
    case["baseline"] = baseline
    case["providers"] = {f"{baseline}{mode}": published for mode in ("", ", graph")}
    case["providers"] |= {f"aten{mode}": aten for mode in ("", ", graph")}
    return BLOCKS["captured"]({"one": results})


def test_the_captured_table_says_what_each_row_is_related_to() -> None:
    assert "| 1e+03 ms (published) | 500 ms (aten) | 2.0 | 0.50× |" in captured("published", "aggregation_head")
    assert "| 1e+03 ms (reference) | 500 ms (aten) |" in captured("reference", "aggregation_head")
    assert "| 1e+03 ms (published) | 500 ms (aten) |" in captured("reference", "cross_attention")


PLOTTED = ("training_step", "roofline", "linear_attention-tokens", "attention_schemes")
"""Of the plots, those for which the example has data."""


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
    assert "| `seqca` | 40 B | 0.50 ± 1% |" in text
    assert "| tokens/1024/fp32/both | aten | 0.50 ± 1% | 0.50 – 0.50 |" in text
    assert "no numbers: largest / error" in text
    assert "| linear_attention: cuda | not built | 2 |" in text
    assert "at every number of tasks measured above one (with four scales)" in text
    assert "| measured in | 1.5 min |" in text
    plots = {path.name: path.read_bytes() for path in (root / "docs" / "plots").iterdir()}
    assert plots.keys() == {f"machine-{name}.png" for name in PLOTTED}
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
    assert "0.50 ± 1% |" in filled("<!-- benchmarks:begin cpu -->\n<!-- benchmarks:end cpu -->", {"a": results})
    case["providers"]["auto"]["time"]["noise"] = 1.5
    assert "(noise) |" in filled("<!-- benchmarks:begin cpu -->\n<!-- benchmarks:end cpu -->", {"a": results})


def test_on_a_cpu_no_time_stands_without_its_baseline() -> None:
    text = filled("<!-- benchmarks:begin network -->\n<!-- benchmarks:end network -->", {"a": example()})
    assert "ms" not in text


def test_the_training_step_is_related_to_the_published_sequence_where_a_result_has_it() -> None:
    old, new = example(), example()
    case = new["cases"]["network/training-nyud-tasks4/fp32/both"]
    published = copy.deepcopy(case["providers"]["reference"]) | {"kept_bytes": 80, "operators": 6}
    published["time"]["median"] = 2.0
    case["baseline"], case["providers"] = "published", {"published": published, **case["providers"]}
    text = BLOCKS["cpu"]({"old": old, "new": new})
    assert "| plain reference | 40 B | 1 |\n| `seqca` | 40 B | 0.50 ± 1% |" in text
    assert "| published sequence | 80 B | 1 |\n| plain reference | 40 B (0.50×) | 0.50 ± 1% |" in text
    assert "| `seqca` | 40 B (0.50×) | 0.25 ± 1% |" in text
    assert "time relative to the published sequence in the same process" in text
    text = BLOCKS["network"]({"new": new})
    assert "| time / published |" in text
    assert "| auto | 0.25 ± 1% |" in text


def test_percentiles_are_milliseconds_on_a_gpu_and_multiples_of_the_reference_on_a_cpu() -> None:
    results = example()
    time = results["cases"]["network/training-nyud-tasks4/fp32/both"]["providers"]["auto"]["time"]
    time |= {"p20": 0.4, "p80": 0.75}
    assert "| auto | 0.50 ± 1% | 0.40 – 0.75 |" in BLOCKS["network"]({"a": results})
    results["environment"]["device"] = "cuda"
    assert "| auto | 500 (400 – 750) | 0.50 ± 1% | 1.0% |" in BLOCKS["network"]({"a": results})


def schemes(results: dict[str, Any], axis: str, **joint: float) -> dict[str, Any]:
    """Results of the attention schemes alone: sequential takes a second, joint so long, by size."""
    ((case, *_), fixed) = results["cases"].values(), "scales" if axis == "tasks" else "tasks"
    cases = {}
    for name, seconds in joint.items():
        entries = {
            scheme: {**copy.deepcopy(case["providers"]["reference"]), "time": {"median": time, "noise": 0.0}}
            for scheme, time in (("sequential", 1.0), ("joint", seconds))
        }
        sizes = {axis: int(name.strip("n")), fixed: 4}
        cases[name] = {**case, "operator": "attention_schemes", "shape": name, "sizes": sizes, "providers": entries}
    return {**results, "cases": cases}


@pytest.mark.parametrize(
    ("axis", "joint", "words"),
    [
        ("tasks", {"n1": 1.0, "n2": 0.9, "n3": 1.1, "n4": 1.2}, "beyond noise, from 3 tasks on (with four scales)"),
        ("tasks", {"n1": 1.1, "n2": 1.1, "n3": 1.2}, "beyond noise, at every number of tasks measured above one"),
        ("tasks", {"n1": 1.1, "n2": 1.1, "n3": 0.9}, "beyond noise, at no number of tasks measured (with four scales)"),
        ("tasks", {"n2": 1.1, "n3": 0.9, "n5": 1.2}, "beyond noise, from 5 tasks on (with four scales)"),
        ("scales", {"n1": 1.0, "n3": 1.1}, "and at every number of scales measured above one (with four tasks)"),
        ("scales", {"n1": 1.1, "n2": 1.0}, "and at no number of scales measured (with four tasks)"),
    ],
)
def test_a_crossing_is_one_only_if_a_smaller_size_that_differs_was_measured(
    axis: str, joint: dict[str, float], words: str
) -> None:
    assert words in crossing(schemes(example(), axis, **joint))


def test_results_without_anything_for_a_table_are_left_out_and_one_sentence_stands_for_all() -> None:
    full, empty = example(), {**example(), "cases": {}}
    schemes = BLOCKS["attention_schemes"]
    assert schemes({"full": full, "empty": empty}) == schemes({"full": full})
    assert cases_of("softplus")({"full": full, "empty": empty}) == "No result has a case of softplus."
    assert "### `softplus`\n\nNo result has a case of softplus." in BLOCKS["operators"]({"full": full, "empty": empty})
    assert schemes({"empty": empty, "too": empty}) == "No result has a case of attention_schemes."
    assert BLOCKS["unavailable"]({"empty": empty}) == "Every provider was available."


def test_a_result_that_does_not_say_how_long_it_took_is_shown_without() -> None:
    old = {key: value for key, value in example().items() if key != "seconds"}
    assert "measured in" not in BLOCKS["conditions"]({"old": old})
    assert "copy bandwidth" in BLOCKS["conditions"]({"old": old})


def test_a_sweep_shows_the_cases_of_its_own_operator() -> None:
    results = example()
    of_head = results["cases"]["linear_attention/tokens/1024/fp32/both"] | {"shape": "channels/72"}
    results["cases"]["aggregation_head/channels/72/fp32/both"] = of_head | {"operator": "aggregation_head"}
    shown = {name: len(PLOTS[name][2](results)) for name in PLOTS if "-" in name}
    assert {name: number for name, number in shown.items() if number} == {
        "linear_attention-tokens": 2,
        "aggregation_head-channels": 1,
    }


def test_the_roofline_draws_nothing_at_zero() -> None:
    results = example()
    plain = copy.deepcopy(results["cases"]["linear_attention/tokens/1024/fp32/both"])
    for entry in plain["providers"].values():
        entry["cost"] = {"bytes": 80, "operations": 0, "exponentials": 10}
    plain["providers"]["only here"] = plain["providers"]["aten"]
    results["cases"]["softplus/some/fp32/both"] = {**plain, "operator": "softplus"}
    _, draw, points = PLOTS["roofline"]
    axes = Figure().subplots()
    draw([axes], results)
    assert len(points(results)) == 2
    drawn = [point for line in axes.lines for point in line.get_xydata().flatten()]
    assert len(drawn) == 2 * (2 * 2 + 3)  # two cases by two providers, and the limit with its knee
    assert min(drawn) > 0
    assert all(min(text.xy) > 0 for text in axes.texts)
    assert "only here" not in [text.get_text() for text in axes.get_legend().get_texts()]
    assert not points({**results, "cases": {"softplus": results["cases"]["softplus/some/fp32/both"]}})


def test_an_unknown_block_and_no_result_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="nonsense"):
        filled("<!-- benchmarks:begin nonsense -->\n<!-- benchmarks:end nonsense -->", {})
    with pytest.raises(ResultsError, match="files: got none"):
        write_report([])


def test_the_pages_show_the_committed_results() -> None:
    results = {file.stem: load(file) for file in sorted((ROOT / "benchmarks" / "results").glob("*.json"))}
    for name in PAGES:
        page = (ROOT / name).read_text()
        assert filled(page, results) == page, f"{name}: run python -m benchmarks report"


def test_a_report_of_ones_own_leaves_the_pages_of_the_checkout_alone(tmp_path: Path) -> None:
    before = {name: (ROOT / name).read_text() for name in PAGES}
    save(example(), tmp_path / "machine.json")
    write_own_report([tmp_path / "machine.json"], tmp_path / "mine")
    assert "| tokens/1024/fp32/both | aten | 0.50 ± 1% |" in (tmp_path / "mine" / "benchmarks.md").read_text()
    assert (tmp_path / "mine" / "plots" / "machine-roofline.png").exists()
    assert before == {name: (ROOT / name).read_text() for name in PAGES}
