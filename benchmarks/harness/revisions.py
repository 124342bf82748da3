"""Measures another git revision of the package and this one in turn, with the benchmarks of this one."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .environment import ROOT
from .results import ResultsError, load


def measure_in_turn(revision: str, options: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results of a revision and of this checkout, measured in the order A B B A.

    The revision is checked out in a temporary folder and installed into another one, without dependencies and without
    a build environment of its own; so is a copy of this checkout's files, so that both have gone the same way.

    Args:
        revision: anything that git understands.
        options: of `run`, passed on.

    Raises:
        ResultsError: if the revision does not exist, cannot be installed or cannot be measured.
    """
    with tempfile.TemporaryDirectory(prefix="seqca-benchmarks-") as folder:
        worktree = Path(folder) / "revision"
        _run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(worktree), revision])
        try:
            sites = [Path(folder) / "before", Path(folder) / "after"]
            for checkout, site in zip((worktree, ROOT), sites, strict=True):
                compiled = "cpu" not in options
                print(f"installing {checkout}{', which may compile for minutes' if compiled else ''}", flush=True)
                install(checkout, site, Path(folder), compiled)
            files = []
            for turn, i in enumerate((0, 1, 1, 0)):
                print(f"measuring {'this checkout' if i else revision}, turn {turn + 1} of 4", flush=True)
                files.append(Path(folder) / f"turn{turn}.json")
                measure(sites[i], (worktree, ROOT)[i], files[-1], options)
        finally:
            _run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(worktree)])
        turns = [load(file) for file in files]
    return merged(turns[0], turns[3]), merged(turns[1], turns[2])


def install(checkout: Path, site: Path, scratch: Path, compiled: bool) -> None:
    """Installs a checkout's package into a folder, and puts this checkout's benchmarks beside it.

    Args:
        checkout: where the sources are.
        site: the folder to install into.
        scratch: a folder for temporary ones.
        compiled: with the CUDA C++ extension, where it can be built.

    Raises:
        ResultsError: if it cannot be installed, or these benchmarks cannot measure it since it is laid out otherwise.
    """
    copy = Path(tempfile.mkdtemp(dir=scratch))  # building leaves files behind, which do not belong in a checkout
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "seqca", "kernels", "csrc"):
        source = checkout / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        elif source.exists():
            shutil.copy(source, copy / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    environment = os.environ if compiled else {**os.environ, "SEQCA_BUILD": "0"}
    _run([*pip, "--target", str(site), str(copy)], environment)
    shutil.copytree(ROOT / "benchmarks", site / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "results"))
    try:
        _run([sys.executable, "-c", "import benchmarks.__main__"], {**os.environ, "PYTHONPATH": str(site)}, cwd=site)
    except ResultsError as error:
        reason = str(error).splitlines()[-1]
        raise ResultsError(
            f"{checkout}: got a version of seqca that these benchmarks cannot measure ({reason}), expected one laid "
            "out alike; compare result files that each version's own benchmarks have written"
        ) from error


def measure(site: Path, checkout: Path, output: Path, options: list[str]) -> None:
    """Runs the benchmarks of a folder on the package in that folder."""
    command = [sys.executable, "-m", "benchmarks", "run", "--checkout", str(checkout), "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(site)}  # in front of any installed version
    status = subprocess.run([*command, *options], cwd=site, env=environment).returncode
    if status not in (0, 3):  # 3: a provider has no numbers, which the comparison tells
        raise ResultsError(f"{checkout}: got status {status} of a measurement, expected 0")


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two results of the same source as one.

    A time is the mean of the two medians, and the noise covers their difference. A provider that fails in one turn
    has failed. Cases that one of the two turns did not reach are left out.
    """
    cases = {}
    for name, case in one["cases"].items():
        if name in other["cases"]:
            again = other["cases"][name]["providers"]
            providers = {provider: _both(entry, again.get(provider)) for provider, entry in case["providers"].items()}
            cases[name] = {**case, "providers": providers}
    return {**one, "cases": cases}


def _both(one: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any]:
    """A provider's entries of two turns as one."""
    if other is None:
        return _failed("missing in one of two turns")
    for entry in (one, other):
        if not entry["check"]["ok"]:
            return entry
    if ("time" in one) != ("time" in other):
        return _failed("no time in one of two turns")
    if "time" not in one:
        return one
    first, second = one["time"], other["time"]
    median = (first["median"] + second["median"]) / 2
    apart = abs(first["median"] - second["median"]) / median
    return {**one, "time": {**first, "median": median, "noise": max(first["noise"], second["noise"], apart)}}


def _failed(what: str) -> dict[str, Any]:
    return {"check": {"ok": False, "worst": None, "what": what}}


def _run(command: list[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)
    if done.returncode:
        raise ResultsError(
            f"{' '.join(command[:6])} …: got status {done.returncode}, expected 0:\n{done.stderr.strip()[-2000:]}"
        )
