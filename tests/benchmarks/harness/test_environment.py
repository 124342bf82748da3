"""What identifies the sources that were measured."""

import subprocess
from pathlib import Path

from benchmarks.harness.environment import environment, same_conditions, source


def git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True, capture_output=True)


def test_changes_of_sources_make_a_checkout_dirty_and_results_and_pages_do_not(tmp_path: Path) -> None:
    git(tmp_path, "init")
    for name in ("kernels/a.py", "seqca/ops/b.py", "README.md", "benchmarks/results/old.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "all")
    clean = source(tmp_path)
    assert not clean["dirty"]
    assert clean["trees"]["kernels"]
    assert clean["trees"]["csrc"] is None

    (tmp_path / "README.md").write_text("2")
    (tmp_path / "benchmarks/results/new.json").write_text("2")
    assert source(tmp_path) == clean

    (tmp_path / "kernels/a.py").write_text("2")
    changed = source(tmp_path)
    assert changed["dirty"]
    (tmp_path / "kernels/a.py").write_text("3")
    assert source(tmp_path)["changes"] != changed["changes"]
    git(tmp_path, "checkout", "kernels")
    (tmp_path / "seqca/new.py").write_text("1")
    assert source(tmp_path)["dirty"]


def test_a_folder_without_git_has_no_commit(tmp_path: Path) -> None:
    assert source(tmp_path)["commit"] is None


def test_an_environment_is_under_the_same_conditions_as_itself() -> None:
    here = environment("cpu")
    assert same_conditions(here, environment("cpu")) == []
    assert same_conditions(here, here | {"torch": "1.0"}) == ["torch"]
    assert same_conditions(here, here | {"clocks": "1 MHz"}) == []
