"""What is to be done on a GPU: every command is tried on a CPU, and stages can be stopped and taken up again."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import running
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.running import missing, run_stage
from benchmarks.gpu.stages import Setting, Stage, stages


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path / "results", dry=True, processes=1)


def stage(*commands: str, minutes: float = 1) -> Stage:
    """Of Python programs."""
    return Stage("one", "for a test", minutes, tuple((sys.executable, "-c", command) for command in commands))


def record(setting: Setting) -> dict[str, Any]:
    return json.loads((setting.folder / "stage-one.json").read_text())


@pytest.mark.parametrize("name", [stage.name for stage in stages(Setting(Path(), dry=True, processes=1))])
def test_every_stage_passes_in_the_dry_mode_and_writes_into_its_folder_alone(name: str, tmp_path: Path) -> None:
    before = {path for path in Path.cwd().iterdir() if path.name != ".pytest_cache"}
    assert main([name, "--dry", "--processes", "1", "--output", str(tmp_path)]) == 0, log_of(tmp_path, name)
    assert {path for path in Path.cwd().iterdir() if path.name != ".pytest_cache"} == before
    assert json.loads((tmp_path / f"stage-{name}.json").read_text())["dry"]


def log_of(folder: Path, name: str) -> str:
    return (folder / f"stage-{name}.log").read_text()[-4000:]


def test_a_stage_that_passed_is_not_run_again_unless_it_is_named(setting: Setting, tmp_path: Path) -> None:
    counted = stage(f"open({str(tmp_path / 'count')!r}, 'a').write('x')")
    for again in (False, False, True):
        assert run_stage(counted, setting, again)
    assert (tmp_path / "count").read_text() == "xx"


def test_it_is_run_again_where_the_sources_have_changed(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = stage(f"open({str(tmp_path / 'count')!r}, 'a').write('x')")
    for commit in ("one", "another"):
        monkeypatch.setattr(running, "source", lambda root, commit=commit: {"commit": commit})
        assert run_stage(counted, setting, again=False)
    assert (tmp_path / "count").read_text() == "xx"


def test_a_stage_whose_time_is_over_has_failed_and_the_next_command_is_still_told(setting: Setting) -> None:
    assert not run_stage(stage("import time; time.sleep(60)", "print('later')", minutes=0.03), setting, again=False)
    first, second = record(setting)["commands"]
    assert first["exit"] == "time over"
    assert second["command"] == "python -c print('later')"


def test_a_command_that_fails_fails_its_stage_and_does_not_stop_it(setting: Setting) -> None:
    assert not run_stage(stage("raise SystemExit(3)", "print('still')"), setting, again=False)
    assert [command["exit"] for command in record(setting)["commands"]] == [3, 0]
    assert "still" in (setting.folder / "stage-one.log").read_text()


def test_a_program_that_is_not_there_is_told(setting: Setting) -> None:
    assert not run_stage(Stage("one", "for a test", 1, (("no-such-sanitizer",),)), setting, again=False)
    assert "no-such-sanitizer" in (setting.folder / "stage-one.log").read_text()


def test_kernels_are_found_though_nothing_is_installed(setting: Setting) -> None:
    assert run_stage(stage("import seqca.kernels; print(seqca.kernels.__file__)"), setting, again=False)
    assert str(Path.cwd() / "kernels") in (setting.folder / "stage-one.log").read_text()


def test_modules_that_are_missing_are_named() -> None:
    assert missing(Stage("one", "", 1, (), ("pytest", "no_such_module"))) == ["no_such_module"]


def test_a_stage_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["strat"]) == 2
    assert "stage: got strat, expected some of start, kernels" in capsys.readouterr().err


def test_a_failed_test_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.gpu.failures import pytest_runtest_logreport

    report = pytest.TestReport("tests/a.py::test_b", ("a", 1, "b"), {}, "failed", "E   assert 1 == 2", "call")
    pytest_runtest_logreport(report)
    assert capsys.readouterr().out == "\nFAILED tests/a.py::test_b\nE   assert 1 == 2\n"
