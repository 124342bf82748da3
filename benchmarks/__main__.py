"""The command line: `python -m benchmarks run | list | compare | report | launches | host | accelerate`."""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's messages; read when torch is imported

import torch

from .acceleration.command import add_command as add_accelerate
from .cases import all_cases, modules
from .cases.shapes import CaseSet, case_set
from .harness.case import Case, Selection
from .harness.compare import compare_files, compare_revision
from .harness.environment import ROOT, environment
from .harness.results import ResultsError, counted, resume
from .harness.run import Budget, run_all, without_numbers

RESULTS = ROOT / "benchmarks" / "results"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except ResultsError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumes = options.command is run_command
        print("interrupted" + "; the same command goes on after the last finished case" * resumes, file=sys.stderr)
        return 130
    return status


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="command")

    run = commands.add_parser(
        "run", help="measure; an interrupted run goes on where it stopped; exits 3 if a provider fails its check"
    )
    _add_selection(run)
    run.add_argument("--output", type=Path, help="result file; by default one under out/benchmarks/ named by machine,"
                     " set and commit")  # fmt: skip
    run.add_argument("--checkout", type=Path, default=ROOT, help=argparse.SUPPRESS)  # where the package comes from
    run.set_defaults(command=run_command)

    listing = commands.add_parser("list", help="show the cases and their providers, measure nothing")
    _add_selection(listing)
    listing.set_defaults(command=list_command)

    compare = commands.add_parser("compare", help="what changed beyond noise; exits 1 on any regression")
    compare.add_argument("before", help="a result file; or, alone, a git revision, which is measured against this one")
    compare.add_argument("after", nargs="?", help="a result file")
    _add_selection(compare)
    compare.set_defaults(command=compare_command)

    report = commands.add_parser("report", help="write tables and plots from result files")
    report.add_argument("files", nargs="*", type=Path, help="by default benchmarks/results/, for README and docs")
    report.add_argument("--output", type=Path, help="folder for the report of the files that are named")
    report.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is not up to date")
    report.set_defaults(command=report_command)

    launches = commands.add_parser(
        "launches", help="count what a training step asks a GPU to launch, without one; prints docs/launches.md"
    )
    launches.set_defaults(command=launches_command)

    host = commands.add_parser(
        "host", help="time that eager calls take on the host, with launches recorded; prints a table"
    )
    host.set_defaults(command=host_command)

    add_accelerate(commands)
    return top


def _add_selection(command: argparse.ArgumentParser) -> None:
    size = command.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="ends after two minutes, and the standard set after ten")
    size.add_argument("--full", action="store_true", help="with compiled networks and sweeps; ends after 4 hours")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--minutes", type=_positive, help="begin no case after so many minutes, whatever the set")
    for name, what in (
        ("op", "part of an operator's name"),
        ("shape", "part of a shape's name"),
        ("dtype", "fp32, bf16"),
        ("direction", "forward, backward, both"),
        ("provider", "part of a provider's name; the baseline always takes part"),
        ("without", "part of the name of a provider that is left out"),
    ):
        command.add_argument(f"--{name}", action="append", default=[], metavar="NAME", help=f"{what}; repeatable")


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"got {text}, expected a positive number")
    return number


def _selection(options: argparse.Namespace) -> Selection:
    names = (options.op, options.shape, options.dtype, options.direction, options.provider, options.without)
    return Selection(*map(tuple, names))


def _case_set(options: argparse.Namespace) -> CaseSet:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ResultsError("--device: got cuda, expected cpu, since torch finds no GPU here")
    name = "quick" if options.quick else "full" if options.full else "standard"
    return case_set(name, options.device, options.minutes)


def _cases(chosen: CaseSet, selection: Selection) -> list[Case]:
    """The selected cases; names that select nothing are errors."""
    for name, reason in modules()[1].items():
        print(f"left out {name}, which this version of seqca lacks: {reason}", flush=True)
    cases = list(all_cases(chosen, selection))
    if not cases:
        raise ResultsError(
            "selection: got names of no case, expected parts of those that python -m benchmarks list shows"
        )
    found = [case.providers() for case in cases]
    known = {name for available, unavailable in found for name in (*(one.name for one in available), *unavailable)}
    for part in selection.providers:
        if not any(part in name for name in known):
            raise ResultsError(f"--provider: got {part}, expected part of a name among {', '.join(sorted(known))}")
    return cases


def run_command(options: argparse.Namespace) -> int:
    """Measures, and says where the results are."""
    chosen, selection = _case_set(options), _selection(options)
    cases = _cases(chosen, selection)
    where = environment(options.device, options.checkout)
    path = options.output or default_output(where, chosen)
    results = resume(path, where, {"set": chosen.name, "seconds": chosen.seconds})
    budget = Budget(chosen.seconds, chosen.minutes, (*chosen.dtypes, chosen.sweep_dtype))
    left = run_all(cases, selection, results, path, budget, lambda line: print(line, flush=True))
    print(f"{path}: {counted(len(results['cases']), 'case')}" + (f", {left} left" if left else ""))
    failed = without_numbers(cases, selection, results["cases"])
    print("".join(f"NO NUMBERS: {line}\n" for line in failed), end="")
    return 3 if failed else 0


def default_output(where: dict[str, object], chosen: CaseSet) -> Path:
    """out/benchmarks/<machine>-<set>-<commit>.json."""
    machine = str(where.get("gpu") or "cpu").lower().replace(" ", "-")
    commit = str(where["commit"] or "unknown")[:8] + ("-" + str(where["changes"])[:8] if where["dirty"] else "")
    return ROOT / "out" / "benchmarks" / f"{machine}-{chosen.name}-{commit}.json"


def list_command(options: argparse.Namespace) -> int:
    """Prints the cases and their providers, and those that are unavailable, with the reason."""
    selection = _selection(options)
    for case in _cases(_case_set(options), selection):
        available, unavailable = selection.of(case)
        print(f"{case.name}: {'; '.join(provider.name for provider in available)}")
        for name, reason in unavailable.items():
            print(f"    unavailable {name}: {reason}")
    return 0


def compare_command(options: argparse.Namespace) -> int:
    """Compares two files, or a revision with this one."""
    passed_on = [f"--{name}" for name in ("quick", "full") if getattr(options, name)]
    passed_on += [] if options.minutes is None else ["--minutes", str(options.minutes)]
    for name in ("op", "shape", "dtype", "direction", "provider", "without"):
        for value in getattr(options, name):
            passed_on += [f"--{name}", value]
    if options.after is None:
        if Path(options.before).is_file():
            raise ResultsError(f"after: got none beside the file {options.before}, expected a second result file")
        return compare_revision(options.before, ["--device", options.device, *passed_on])
    if passed_on:
        raise ResultsError(f"{' '.join(passed_on)}: got what narrows a measurement, expected two result files alone")
    return compare_files(Path(options.before), Path(options.after))


def report_command(options: argparse.Namespace) -> int:
    """Writes tables and plots, or checks the tables."""
    from .report.pages import write_own_report, write_report  # needs what an older package under measurement may lack

    if options.files and options.check:
        raise ResultsError("--check: got it with result files, expected it alone, for README and docs")
    if options.output and not options.files:
        raise ResultsError(f"--output: got {options.output} without result files, expected some to show there")
    if not options.files:
        return write_report(sorted(RESULTS.glob("*.json")), check=options.check)
    if options.output is None:
        raise ResultsError("--output: got none, expected a folder; README and docs show benchmarks/results/ alone")
    write_own_report(options.files, options.output)
    return 0


def launches_command(options: argparse.Namespace) -> int:
    """Prints the page of launches."""
    from .launches import page  # imports Triton

    print(page())
    return 0


def host_command(options: argparse.Namespace) -> int:
    """Prints the time on the host."""
    from .host import table  # imports Triton

    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
