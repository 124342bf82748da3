"""Runs a stage: its commands one after the other, everything they write below one folder, and a record of each."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import ROOT, source
from benchmarks.harness.results import write

from .stages import Setting, Stage

_FINDER = '''"""Makes a checkout importable without an installation, `kernels/` as `seqca.kernels`."""

import sys
from importlib.util import spec_from_file_location
from pathlib import Path

ROOT = Path({root!r})


class Checkout:
    """Finds the two packages that lie elsewhere in a checkout than in an installation."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "seqca.kernels":
            return None
        folder = ROOT / "kernels"
        return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])


sys.meta_path.append(Checkout)
'''


def missing(stage: Stage) -> list[str]:
    """The modules that a stage needs and cannot have."""
    return [name for name in stage.needs if find_spec(name) is None]


def run_stage(stage: Stage, setting: Setting, again: bool) -> bool:
    """Runs a stage unless it has passed with these sources.

    Args:
        stage: to run.
        setting: for what.
        again: run it, whatever its record says.

    Returns:
        Whether it passed, now or earlier.
    """
    record, log = setting.folder / f"stage-{stage.name}.json", setting.folder / f"stage-{stage.name}.log"
    sources = source(ROOT)
    if not again and _passed(record, sources):
        print(f"[{stage.name}] passed before", flush=True)
        return True
    print(f"[{stage.name}] {stage.what}; at most {stage.minutes:g} minutes", flush=True)
    setting.folder.mkdir(parents=True, exist_ok=True)
    environment, end = _environment(stage, setting), time.monotonic() + 60 * stage.minutes
    results: list[dict[str, Any]] = []
    with log.open("w") as file:
        for command in stage.commands:
            results.append(_run(command, environment, end - time.monotonic(), file))
            entry = {"stage": stage.name, "dry": setting.dry, "source": sources, "commands": results}
            write(json.dumps(entry, indent=1), record)
            print(f"    {results[-1]['seconds']:.0f} s, exit {results[-1]['exit']}: {_short(command)}", flush=True)
    passed = all(result["exit"] == 0 for result in results)
    if not passed:
        print(f"    FAILED, see {log}", flush=True)
    return passed


def _passed(record: Path, sources: dict[str, Any]) -> bool:
    try:
        entry = json.loads(record.read_text())
    except (OSError, ValueError):
        return False
    same = entry["source"] == json.loads(json.dumps(sources))
    return same and all(result["exit"] == 0 for result in entry["commands"])


def _run(command: tuple[str, ...], environment: dict[str, str], seconds: float, log: Any) -> dict[str, Any]:
    """One command in a process group of its own, which is ended when its time is over."""
    start = time.monotonic()
    log.write(f"$ {_short(command)}\n")
    log.flush()
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        log.write(f"{error}\n")
        return {"command": _short(command), "exit": 127, "seconds": 0.0}
    status: int | str
    try:
        status = process.wait(max(seconds, 1))
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as stopped:
        _end(process)
        if isinstance(stopped, KeyboardInterrupt):
            raise
        status = "time over"
    return {"command": _short(command), "exit": status, "seconds": time.monotonic() - start}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """As Ctrl-C would, then by force."""
    for number in (signal.SIGINT, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(10)
            return
        except subprocess.TimeoutExpired:
            continue


def _short(command: tuple[str, ...]) -> str:
    return " ".join(("python", *command[1:]) if command[0] == sys.executable else command)


def _environment(stage: Stage, setting: Setting) -> dict[str, str]:
    """Caches and temporary files below the folder; in the dry mode no GPU."""
    site, temporary = setting.folder / "cache" / "site", setting.folder / "tmp"
    for folder in (site, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    write(_FINDER.format(root=str(ROOT)), site / "sitecustomize.py")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPYCACHEPREFIX": str(setting.folder / "cache" / "python"),
        "TRITON_CACHE_DIR": str(setting.folder / "cache" / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(setting.folder / "cache" / "inductor"),
        "XDG_CACHE_HOME": str(setting.folder / "cache"),
        "MPLCONFIGDIR": str(setting.folder / "cache" / "matplotlib"),
        "TMPDIR": str(temporary),
        **({"SEQCA_BUILD": "jit"} if stage.extension and not setting.dry else {}),
    }
    if setting.dry:
        environment["CUDA_VISIBLE_DEVICES"] = ""
        environment.pop("TRITON_INTERPRET", None)  # what needs it sets it
    return environment
