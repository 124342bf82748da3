"""What counts as a change, and the exit status."""

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import revisions
from benchmarks.harness.compare import changes
from benchmarks.harness.environment import source
from benchmarks.harness.results import load, save
from benchmarks.harness.revisions import ROOT, install, measure, measure_in_turn, merged

from ..fakes import FakeTime, doubling, results_of


def measured(device: str = "cuda", **seconds: float) -> dict[str, Any]:
    time = FakeTime()
    results = results_of(doubling(time, **seconds), time=time)
    results["environment"]["device"] = device
    return results


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(before: dict[str, Any], after: dict[str, Any]) -> tuple[int, str]:
        for name, results in (("a", before), ("b", after)):
            save(results, tmp_path / f"{name}.json")
        status = main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
        return status, capsys.readouterr().out

    return run


def test_a_planted_slow_down_is_caught(compare: Callable[..., tuple[int, str]]) -> None:
    status, text = compare(measured(reference=1.0, fast=0.1), measured(reference=1.0, fast=0.103))
    assert status == 1
    assert "WORSE   doubling/one/fp32/both, fast: time 1.030 times" in text
    assert "1 worse" in text


def test_the_same_and_the_faster_pass(compare: Callable[..., tuple[int, str]]) -> None:
    old = measured(reference=1.0, fast=0.1)
    assert compare(old, measured(reference=1.0, fast=0.1))[0] == 0
    status, text = compare(old, measured(reference=1.0, fast=0.05))
    assert status == 0
    assert "better  doubling/one/fp32/both, fast: time 0.500 times" in text


def test_one_regression_among_improvements_is_enough(compare: Callable[..., tuple[int, str]]) -> None:
    before, after = measured(reference=1.0, a=0.5, b=0.5), measured(reference=0.9, a=0.1, b=0.52)
    assert compare(before, after)[0] == 1


def test_a_difference_inside_the_noise_is_none(compare: Callable[..., tuple[int, str]]) -> None:
    before, after = measured(reference=1.0, fast=0.1), measured(reference=1.0, fast=0.103)
    entry = before["cases"]["doubling/one/fp32/both"]["providers"]["fast"]
    entry["time"]["noise"] = 0.04
    assert compare(before, after)[0] == 0


def test_on_a_cpu_a_slower_machine_is_no_regression_and_a_slower_ratio_is(
    compare: Callable[..., tuple[int, str]],
) -> None:
    before = measured("cpu", reference=1.0, fast=0.5)
    assert compare(before, measured("cpu", reference=2.0, fast=1.0))[0] == 0
    status, text = compare(before, measured("cpu", reference=1.0, fast=0.6))
    assert status == 1
    assert "time relative to the reference 1.200 times" in text


def test_times_are_related_to_the_older_results_baseline_where_the_newer_one_has_another(
    compare: Callable[..., tuple[int, str]],
) -> None:
    before, after = measured("cpu", reference=1.0, fast=0.5), measured("cpu", published=5.0, reference=1.0, fast=0.6)
    after["cases"]["doubling/one/fp32/both"]["baseline"] = "published"
    assert "fast: time relative to the reference 1.200 times" in compare(before, after)[1]
    assert "time" not in compare(after, {**before})[1].partition("compared")[0]


@pytest.mark.parametrize("quantity", ["kept_bytes", "operators"])
def test_exact_quantities_have_no_noise(compare: Callable[..., tuple[int, str]], quantity: str) -> None:
    before = measured(reference=1.0)
    after = copy.deepcopy(before)
    after["cases"]["doubling/one/fp32/both"]["providers"]["reference"][quantity] += 1
    assert compare(before, after)[0] == 1
    assert compare(after, before)[0] == 0


@pytest.mark.parametrize(("more", "status"), [(4096, 0), (4097, 1)])
def test_a_peak_may_differ_by_an_allocators_rounding(
    compare: Callable[..., tuple[int, str]], more: int, status: int
) -> None:
    before, after = measured(reference=1.0), measured(reference=1.0)
    for results, peak in ((before, 10**9), (after, 10**9 + more)):
        results["cases"]["doubling/one/fp32/both"]["providers"]["reference"]["peak_bytes"] = peak
    assert compare(before, after)[0] == status


def test_wrong_and_unavailable_are_regressions_and_not_chosen_is_not(compare: Callable[..., tuple[int, str]]) -> None:
    before = measured(reference=1.0, fast=0.5)
    wrong, unavailable, narrowed = (copy.deepcopy(before) for _ in range(3))
    wrong["cases"]["doubling/one/fp32/both"]["providers"]["fast"] = {"check": {"ok": False, "what": "error 1"}}
    del unavailable["cases"]["doubling/one/fp32/both"]["providers"]["fast"]
    unavailable["cases"]["doubling/one/fp32/both"]["unavailable"]["fast"] = "not built"
    del narrowed["cases"]["doubling/one/fp32/both"]["providers"]["fast"]
    assert compare(before, wrong)[0] == 1
    assert compare(before, unavailable)[0] == 1
    assert compare(before, narrowed)[0] == 0


def test_results_without_a_common_case_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = measured(reference=1.0)
    save(before, tmp_path / "a.json")
    save({**before, "cases": {}}, tmp_path / "b.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "missing.json")]) == 2
    assert "no case in common" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["device", "gpu", "processor"])
def test_results_of_different_machines_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    before = measured("cuda", reference=1.0)
    after = copy.deepcopy(before)
    after["environment"][key] = "another"
    save(before, tmp_path / "a.json")
    save(after, tmp_path / "b.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    output = capsys.readouterr()
    assert f"{key} {before['environment'][key]!r} and 'another'" in output.err
    assert "compared:" not in output.out


def test_other_software_and_settings_are_named_in_a_line_each(compare: Callable[..., tuple[int, str]]) -> None:
    before = measured(reference=1.0)
    after = copy.deepcopy(before)
    after["environment"] |= {"torch": "2.1", "threads": 7, "tf32": {"matrix products": True, "convolutions": True}}
    after["settings"] = {"set": "full"}
    status, text = compare(before, after)
    assert status == 0
    lines = text.splitlines()[:-1]
    assert [line.partition(":")[0] for line in lines] == [
        f"different {key}" for key in ("torch", "threads", "tf32", "settings")
    ]
    assert "2.0 and 2.1" in lines[0]
    assert "different" not in compare(before, before)[1]


def test_two_files_are_compared_whole_so_options_of_a_measurement_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(measured(reference=1.0), tmp_path / "a.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "a.json"), "--op", "softplus", "--quick"]) == 2
    assert "--quick --op softplus: got what narrows a measurement" in capsys.readouterr().err


def test_runs_of_one_revision_that_differ_make_noise() -> None:
    one, other = measured(reference=1.0, fast=0.10), measured(reference=1.0, fast=0.12)
    time = merged(one, other)["cases"]["doubling/one/fp32/both"]["providers"]["fast"]["time"]
    assert time["median"] == pytest.approx(0.11)
    assert time["noise"] == pytest.approx(0.02 / 0.11)


FAILURE = {"check": {"ok": False, "worst": 2.0, "what": "error 1"}}


@pytest.mark.parametrize(
    ("failing", "how", "what"),
    [
        (0, "check", "error 1"),
        (1, "check", "error 1"),
        (0, "time", "no time in one of two turns"),
        (1, "time", "no time in one of two turns"),
        (1, "missing", "missing in one of two turns"),
    ],
)
def test_who_fails_in_one_of_two_turns_has_no_numbers_but_the_reason(failing: int, how: str, what: str) -> None:
    turns = [measured(reference=1.0, fast=0.1) for _ in range(2)]
    providers = turns[failing]["cases"]["doubling/one/fp32/both"]["providers"]
    if how == "check":
        providers["fast"] = FAILURE
    elif how == "time":
        del providers["fast"]["time"]
    else:
        del providers["fast"]
    entries = merged(*turns)["cases"]["doubling/one/fp32/both"]["providers"]
    assert not entries["fast"]["check"]["ok"]
    assert entries["fast"]["check"]["what"] == what
    assert "time" not in entries["fast"]
    assert entries["reference"]["check"]["ok"]
    assert "time" in entries["reference"]
    changed = list(changes(measured(reference=1.0, fast=0.1), merged(*turns)))
    assert [change.worse for change in changed] == [True]


def test_a_case_that_only_one_of_two_turns_reached_is_left_out() -> None:
    one, other = measured(reference=1.0), measured(reference=1.0)
    del other["cases"]["doubling/one/fp32/both"]
    assert not merged(one, other)["cases"]


def test_a_time_that_is_no_longer_there_is_a_regression(compare: Callable[..., tuple[int, str]]) -> None:
    before = measured(reference=1.0, fast=0.1)
    after = copy.deepcopy(before)
    del after["cases"]["doubling/one/fp32/both"]["providers"]["fast"]["time"]
    status, text = compare(before, after)
    assert status == 1
    assert "fast: no time" in text


def test_a_revision_and_this_checkout_are_measured_in_the_order_a_b_b_a(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True, capture_output=True)

    repository.mkdir()
    git("init")
    (repository / "speed").write_text("1.0")
    git("add", ".")
    git("commit", "-m", "fast")
    (repository / "speed").write_text("1.5")

    def install(checkout: Path, site: Path, scratch: Path, compiled: bool) -> None:
        assert compiled
        site.mkdir()
        (site / "speed").write_text((checkout / "speed").read_text())

    turns = []

    def measure(site: Path, checkout: Path, output: Path, options: list[str]) -> None:
        turns.append(site.name)
        assert options == ["--quick"]
        save(measured(reference=float((site / "speed").read_text())), output)

    monkeypatch.setattr(revisions, "ROOT", repository)
    monkeypatch.setattr(revisions, "install", install)
    monkeypatch.setattr(revisions, "measure", measure)
    before, after = measure_in_turn("HEAD", ["--quick"])
    assert turns == ["before", "after", "after", "before"]
    (change,) = changes(before, after)
    assert change.worse
    assert change.after / change.before == pytest.approx(1.5)
    listed = subprocess.run(["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1  # nothing is left behind


def test_what_is_measured_is_the_installed_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, output = tmp_path / "site", tmp_path / "result.json"
    install(ROOT, site, tmp_path, compiled=False)
    with (site / "seqca" / "reference" / "softplus.py").open("a") as module:
        module.write("\n\n_plain = softplus\n\n\ndef softplus(x: Tensor) -> Tensor:\n    return _plain(x + 0)\n")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    narrow = ["--op", "softplus", "--shape", "scale3", "--provider", "aten"]
    measure(site, ROOT, output, ["--quick", "--device", "cpu", "--minutes", "1", *narrow])
    result = load(output)
    ((name, case),) = result["cases"].items()
    assert name == "softplus/nyud-scale3-tasks4/fp32/both"
    assert case["providers"].keys() == {"reference", "aten"}
    assert all(entry["check"]["ok"] and entry["time"]["median"] > 0 for entry in case["providers"].values())
    assert case["providers"]["reference"]["operators"] == 3  # softplus, its gradient, and the addition planted above
    assert result["seconds"] > 0
    assert result["environment"]["device"] == "cpu"
    assert result["environment"]["commit"] == source(ROOT)["commit"]
