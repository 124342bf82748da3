"""Runs: which providers get numbers, what is written, and what happens after an interruption."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import __main__ as command_line
from benchmarks.__main__ import main
from benchmarks.cases.linear_attention import stacked
from benchmarks.cases.network import NetworkCase
from benchmarks.cases.shapes import case_set, nyud
from benchmarks.harness import execution
from benchmarks.harness import run as run_module
from benchmarks.harness.case import MODES, Selection, in_mode, mode_refusal
from benchmarks.harness.results import ResultsError, new_results, resume
from benchmarks.harness.run import Budget, checked, input_sets, run_all, run_case, without_numbers
from seqca.reference.linear_attention import linear_attention as reference

from ..fakes import DoublingCase, FakeTime, doubling

ROOT = Path(__file__).resolve().parents[3]
QUICK, FULL = case_set("quick", "cpu"), case_set("full", "cpu")
BUDGET = Budget(QUICK.seconds, QUICK.minutes)


def test_a_wrong_kernel_gets_no_number() -> None:
    time = FakeTime()
    case = doubling(time, reference=1.0, fast=0.1)

    def wrong(x: Tensor) -> Tensor:
        return 2 * x + (torch.arange(10) == 3) * 1e-3

    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no such kernel image")

    lines: list[str] = []
    planted = replace(case, functions={**case.functions, "wrong": wrong, "broken": broken})
    record = run_case(planted, time.conditions(), lines.append)
    assert record["providers"]["fast"]["time"]["median"] == pytest.approx(0.1)
    for name, why in (("wrong", "error 0.0"), ("broken", "no such kernel image")):
        entry = record["providers"][name]
        assert not entry["check"]["ok"]
        assert why in entry["check"]["what"]
        assert entry.keys() <= {"check", "first_call", "cost"}
    assert sum("NO NUMBERS" in line for line in lines) == 2


@pytest.mark.parametrize("error", [1e-3, -1e-3])
def test_a_biased_channel_of_an_operator_fails_its_check(error: float) -> None:
    case = stacked("small", 2, 64, 36, QUICK)

    def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference(q, k, v) + error * (torch.arange(36) == 5)

    provider = case.providers().available[0]
    expected = case.expected(provider, torch.Generator().manual_seed(0))
    assert checked(case, provider, expected)[0]["check"]["ok"]
    outcome = checked(case, replace(provider, function=biased), expected)[0]["check"]
    assert not outcome["ok"]
    assert outcome["worst"] > 1


@pytest.mark.parametrize(("error", "ok"), [(0.5e-6, True), (3e-6, False), (float("nan"), False)])
def test_baselines_are_judged_by_the_same_rule(error: float, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic, mode: function)
    case = doubling(FakeTime(), reference=1.0)
    (provider,) = case.providers().available
    outcomes = []
    monkeypatch.setattr(execution, "capture", lambda work: (SimpleNamespace(replay=lambda: None), work()))
    for mode in ("eager", "compiled", "max-autotune", "compiled, graph"):
        function, name = (lambda x: 2 * x + error), in_mode("reference", mode)
        baseline = replace(provider, name=name, function=function, backend="reference", mode=mode)
        expected = case.expected(baseline, torch.Generator().manual_seed(0))
        outcomes.append(checked(case, baseline, expected)[0]["check"]["ok"])
    assert outcomes == [ok] * 4


def test_providers_that_cannot_run_are_unavailable_with_the_reason() -> None:
    available, unavailable = stacked("small", 2, 64, 36, QUICK).providers()
    assert [provider.name for provider in available] == ["reference", "aten"]
    baselines = {f"reference, {mode}" for mode in MODES if mode != "eager"} | {"flex_attention"}
    assert {"triton", "cuda", "aten, graph"} | baselines == unavailable.keys()
    assert all(unavailable.values())
    assert "GPU" in unavailable["aten, graph"]


def test_the_compiled_graph_is_unavailable_for_what_either_half_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in (stacked("small", 2, 64, 36, FULL), NetworkCase.of(nyud(1), "fp32", "both", FULL)):
        available, unavailable = case.providers()
        assert unavailable["reference, compiled, graph"] == "CUDA graphs need a GPU"
        assert not any(provider.captured for provider in available)
    assert "the pass both" in str(mode_refusal("compiled, graph", "cuda", "backward", MODES))
    assert "--full" in str(mode_refusal("compiled, graph", "cuda", "both", case_set("quick", "cuda").modes()))
    for device, modes in (
        ("cuda", case_set("full", "cuda").modes()),
        ("cuda", case_set("full", "cuda").network_modes()),
    ):
        assert mode_refusal("compiled, graph", device, "both", modes) is None
    monkeypatch.setattr(shutil, "which", lambda name: None)
    reason = str(mode_refusal("compiled, graph", "cpu", "both", MODES))
    assert "C++ compiler" in reason
    assert "need a GPU" in reason


def test_unavailable_providers_are_written_into_the_result() -> None:
    time = FakeTime()
    record = run_case(doubling(time, unavailable={"cuda": "not built"}, reference=1.0), time.conditions(), print)
    assert record["unavailable"] == {"cuda": "not built"}


def test_inputs_exceed_the_cache_or_the_record_says_that_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    case = doubling(FakeTime(), reference=1.0)
    monkeypatch.setattr(run_module, "last_level_cache", lambda device: 100)
    sets, cold = input_sets(case, seed=0)
    assert len(sets) == 5  # five times 40 bytes are twice the cache
    assert cold
    assert not torch.equal(sets[0].leaves[0], sets[1].leaves[0])
    monkeypatch.setattr(run_module, "last_level_cache", lambda device: 2**30)
    sets, cold = input_sets(case, seed=0)
    assert len(sets) == run_module.MOST_INPUT_SETS
    assert not cold


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "measure_limits", lambda device, dtypes: {"measured": dtypes})
    monkeypatch.setattr(run_module, "last_level_cache", lambda device: 100)


def names(path: Path) -> list[str]:
    return list(json.loads(path.read_text())["cases"])


def test_an_interrupted_run_goes_on_after_the_last_finished_case(tmp_path: Path, limits: None) -> None:
    path, time = tmp_path / "result.json", FakeTime()
    interrupt = [True]
    runs: list[str] = []

    def noted(name: str) -> DoublingCase:
        def function(x: Tensor) -> Tensor:
            runs.append(name)
            time.seconds += 1
            if name == "second" and interrupt[0]:
                raise KeyboardInterrupt
            return 2 * x

        return replace(doubling(time, name), functions={"reference": function})

    cases = [noted("first"), noted("second"), noted("third")]
    environment, settings = {"commit": "a", "device": "cpu"}, {"set": "quick"}

    def go() -> int:
        results = resume(path, environment, settings)
        return run_all(cases, Selection(), results, path, BUDGET, lambda line: None)

    with pytest.raises(KeyboardInterrupt):
        go()
    assert names(path) == ["doubling/first/fp32/both"]
    interrupt[0] = False
    runs.clear()
    assert go() == 0
    assert set(runs) == {"second", "third"}
    assert [name.split("/")[1] for name in names(path)] == ["first", "second", "third"]
    runs.clear()
    assert go() == 0
    assert not runs
    assert not list(tmp_path.glob("*.part"))


def test_the_time_of_measuring_is_summed_over_resumed_runs(
    tmp_path: Path, limits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, time = tmp_path / "result.json", FakeTime()
    monkeypatch.setattr(run_module.time, "monotonic", time.now)

    def measure(*names: str) -> float | None:
        cases = [doubling(time, name, reference=1.0) for name in names]
        before = time.seconds
        run_all(cases, Selection(), resume(path, {}, {}), path, BUDGET, lambda line: None)
        took.append(time.seconds - before)
        return json.loads(path.read_text()).get("seconds")

    took: list[float] = []
    assert measure("first") == pytest.approx(took[0])
    assert took[0] > 0
    assert measure("first", "second") == pytest.approx(sum(took))
    assert measure("first", "second") == pytest.approx(sum(took[:2]))
    old = {key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}
    path.write_text(json.dumps(old))
    assert measure("first", "second", "third") is None  # a part would pass for the whole


def test_no_case_is_begun_after_the_time_is_over(tmp_path: Path, limits: None) -> None:
    time = FakeTime()
    cases = [doubling(time, name, reference=1.0) for name in ("first", "second")]
    results = new_results({}, {})
    lines: list[str] = []
    left = run_all(cases, Selection(), results, tmp_path / "r.json", BUDGET._replace(minutes=-1), lines.append)
    assert left == 2
    assert not results["cases"]
    assert "minutes are over" in lines[-1]


@pytest.mark.parametrize(
    ("environment", "settings", "named"),
    [({"commit": "b"}, {"set": "quick"}, "commit"), ({"commit": "a"}, {"set": "full"}, "settings")],
)
def test_results_of_other_conditions_are_not_mixed(
    tmp_path: Path, environment: dict[str, Any], settings: dict[str, Any], named: str
) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(new_results({"commit": "a"}, {"set": "quick"})))
    with pytest.raises(ResultsError, match=named):
        resume(path, environment, settings)


def test_pytest_offers_the_cases_to_its_benchmark_fixture() -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "-k", "softplus and scale3 and aten"]
    # Inside a worker of xdist the fixture would measure nothing.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"test_speed\[softplus/\S+-aten\] +\d", run.stdout), run.stdout


def test_a_network_that_is_wrong_at_the_timed_size_alone_gets_no_number() -> None:
    data = nyud(1)._replace(height=32, width=96, tasks={"semseg": 5, "depth": 1})
    case = NetworkCase.of(data, "fp32", "forward", QUICK)
    provider = next(provider for provider in case.providers().available if provider.backend == "auto")

    def wrong(images: Tensor) -> dict[str, Tensor]:
        predictions = provider.function(images)
        return {**predictions, "depth": predictions["depth"] * (1 + 1e-5 * (images.shape[-1] == 96))}

    expected = case.expected(provider, torch.Generator().manual_seed(0))
    assert checked(case, provider, expected)[0]["check"]["ok"]
    assert not checked(case, replace(provider, function=wrong), expected)[0]["check"]["ok"]


def test_a_case_is_measured_again_where_a_selected_provider_is_missing_and_none_is_lost(
    tmp_path: Path, limits: None
) -> None:
    case = doubling(FakeTime(), reference=1.0, fast=0.1, slow=2.0, other=0.5)
    path, results = tmp_path / "r.json", new_results({}, {})

    def measured(*providers: str) -> set[str]:
        run_all([case], Selection(providers=providers), results, path, BUDGET, lambda line: None)
        return set(results["cases"][case.name]["providers"])

    assert measured("fast") == {"reference", "fast"}
    assert measured("slow") == {"reference", "fast", "slow"}
    assert measured() == {"reference", "fast", "slow", "other"}


def test_a_case_whose_timing_failed_is_no_measured_one(
    tmp_path: Path, limits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("a graph that cannot be replayed")

    case, path, results = doubling(FakeTime(), reference=1.0), tmp_path / "r.json", new_results({}, {})
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "time_interleaved", fail)
        run_all([case], Selection(), results, path, BUDGET, lambda line: None)
    reasons = without_numbers([case], Selection(), results["cases"])
    assert reasons == ["doubling/one/fp32/both, reference: timing failed"]
    run_all([case], Selection(), results, path, BUDGET, lambda line: None)
    assert not without_numbers([case], Selection(), results["cases"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--op", "nonsense"], "got names of no case"),
        (["list", "--op", "nonsense"], "got names of no case"),
        (
            ["list", "--op", "softplus", "--provider", "unknown"],
            "--provider: got unknown, expected part of a name among aten",
        ),
        (["compare", __file__], "expected a second result file"),
        (["report", "--output", "mine"], "--output: got mine without result files"),
        (["report", "--check", __file__, "--output", "."], "--check: got it with result files"),
        (["report", __file__], "--output: got none, expected a folder"),
        (["report", __file__, "--output", "."], "got no readable file"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_cannot_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--device", "cuda"]) == 2
    assert "torch finds no GPU here" in capsys.readouterr().err


def test_a_run_in_which_a_provider_is_wrong_exits_3(
    tmp_path: Path, limits: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = doubling(FakeTime(), reference=1.0)
    wrong = replace(case, functions={**case.functions, "wrong": lambda x: 2 * x + 1})
    for cases, status in (([case], 0), ([wrong], 3)):
        monkeypatch.setattr(command_line, "all_cases", lambda chosen, selection, cases=cases: cases)
        assert main(["run", "--device", "cpu", "--output", str(tmp_path / f"{status}.json")]) == status
    assert "NO NUMBERS: doubling/one/fp32/both, wrong: result 0: largest error 1" in capsys.readouterr().out
