"""The command line: `python -m benchmarks.gpu [STAGE ...]`; `make gpu` runs all stages."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.harness.environment import ROOT

from .running import missing, run_stage
from .stages import Setting, stages


def main(arguments: list[str] | None = None) -> int:
    """Runs the stages that are not done; returns 1 if one failed."""
    options = parser().parse_args(arguments)
    setting = Setting(options.output.resolve(), options.dry, options.processes)
    known = {stage.name: stage for stage in stages(setting)}
    if unknown := [name for name in options.stages if name not in known]:
        print(f"stage: got {', '.join(unknown)}, expected some of {', '.join(known)}", file=sys.stderr)
        return 2
    chosen = [known[name] for name in options.stages or known]
    for stage in chosen:
        if absent := missing(stage):
            print(f"{stage.name} lacks {', '.join(absent)}: put a wheel of it on PYTHONPATH (docs/gpu.md)", flush=True)
    failed = []
    for stage in chosen:
        if options.minutes is not None:
            stage = replace(stage, minutes=options.minutes)
        if not run_stage(stage, setting, again=bool(options.stages)):
            failed.append(stage.name)
    print(f"{setting.folder}: " + (f"FAILED: {', '.join(failed)}" if failed else "all stages passed"))
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    top.add_argument(
        "stages", nargs="*", metavar="STAGE", help="run these, done or not; without any, all that are left"
    )
    top.add_argument("--output", type=Path, default=ROOT / "out" / "gpu", help="the folder for all that is written")
    top.add_argument("--dry", action="store_true", help="on a CPU, at the smallest sizes: try the commands")
    top.add_argument("--minutes", type=float, help="stop each stage after so many, in place of its own limit")
    top.add_argument("--processes", type=int, default=max(1, min(14, (os.cpu_count() or 2) - 2)), help="for the tests")
    return top


if __name__ == "__main__":
    sys.exit(main())
