"""Writes tables into README.md and docs/benchmarks.md, and plots into docs/plots/, from result files alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from seqca.ops.shared.operator import OPERATORS

from ..acceleration.results import committed
from ..harness.environment import ROOT
from ..harness.results import ResultsError, load, write
from .acceleration import tables
from .against_published import goal_table, growth_table
from .captured import captured_table
from .profile import page
from .tables import (
    Results,
    conditions,
    device_name,
    operator_table,
    scheme_table,
    training_steps,
    training_table,
    unavailabilities,
)

PAGES = ("README.md", "docs/benchmarks.md", "docs/aggregation.md", "docs/cross_attention.md")
Blocks = Mapping[str, Callable[[dict[str, Results]], str]]
"""By name, the text of a block."""
_BLOCK = re.compile(r"(<!-- benchmarks:begin ([\w-]+) -->\n).*?(<!-- benchmarks:end \2 -->)", re.DOTALL)


def write_report(files: Sequence[Path], root: Path = ROOT, check: bool = False) -> int:
    """Fills the marked blocks of the pages, and draws the plots.

    A block is the text between `<!-- benchmarks:begin NAME -->` and `<!-- benchmarks:end NAME -->`.

    Args:
        files: result files.
        root: folder of the pages.
        check: write nothing.

    Returns:
        1 if `check` finds a page that is not up to date, else 0.

    Raises:
        ResultsError: if there is no result, or a page has a block of an unknown name.
    """
    if not files:
        raise ResultsError("files: got none, expected a result file; python -m benchmarks run makes one")
    results = {file.stem: load(file) for file in files}
    status = 0
    for name in PAGES:
        page = root / name
        old = page.read_text() if page.exists() else ""
        new = filled(old, results)
        if new == old:
            continue
        if check:
            print(f"{name} is not what python -m benchmarks report writes")
            status = 1
        else:
            write(new, page)
            print(f"wrote {name}")
    status |= _write_profiles(root, check) | _write_accelerated(root, check)
    if not check:
        from .plots import draw  # matplotlib is optional

        for path in draw(results, root / "docs" / "plots"):
            print(f"wrote {path.relative_to(root)}")
    return status


def _write_profiles(root: Path, check: bool) -> int:
    """docs/step.md, where it is not what the profiles say; returns 1 if `check` finds that."""
    new = page(sorted((root / "benchmarks" / "profiles").glob("*.json")))
    return _write_page("docs/step.md", lambda _: new, root, check)


def _write_accelerated(root: Path, check: bool) -> int:
    """The block of docs/acceleration.md, likewise."""
    found = committed(root)
    blocks = {"acceleration": lambda _: tables(found) or "Nothing is measured yet."}
    return _write_page("docs/acceleration.md", lambda old: filled(old, {}, blocks), root, check)


def _write_page(name: str, new: Callable[[str], str], root: Path, check: bool) -> int:
    path = root / name
    if not path.exists() or path.read_text() == new(path.read_text()):
        return 0
    if check:
        print(f"{name} is not what python -m benchmarks report writes")
        return 1
    write(new(path.read_text()), path)
    print(f"wrote {name}")
    return 0


def write_own_report(files: Sequence[Path], folder: Path) -> None:
    """Writes benchmarks.md, the page of the docs with other results, and its plots into a folder.

    Raises:
        ResultsError: if a file is no result.
    """
    from .plots import draw  # matplotlib is optional

    results = {file.stem: load(file) for file in files}
    page = filled((ROOT / "docs" / "benchmarks.md").read_text(), results)
    folder.mkdir(parents=True, exist_ok=True)
    write(page, folder / "benchmarks.md")
    for path in (folder / "benchmarks.md", *draw(results, folder / "plots")):
        print(f"wrote {path}")


def filled(page: str, results: dict[str, Results], blocks: Blocks | None = None) -> str:
    """A page with its blocks written anew, those of README.md and docs/benchmarks.md if no others are given."""
    known = BLOCKS if blocks is None else blocks

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name not in known:
            raise ResultsError(f"block: got {name!r}, expected one of {', '.join(known)}")
        return f"{match[1]}{known[name](results)}\n{match[3]}"

    return _BLOCK.sub(block, page)


def per_result(table: Callable[[Results], str], nothing: str) -> Callable[[dict[str, Results]], str]:
    """One table for each result that has something for it, under the name of its device; `nothing` if none has."""

    def block(results: dict[str, Results]) -> str:
        filled = ((stem, device_name(result), table(result)) for stem, result in results.items())
        return "\n\n".join(f"**{stem}** ({device})\n\n{text}" for stem, device, text in filled if text) or nothing

    return block


def cases_of(operator: str) -> Callable[[dict[str, Results]], str]:
    """The table of an operator's cases for each result."""
    return per_result(lambda result: operator_table(result, operator), f"No result has a case of {operator}.")


def operators(results: dict[str, Results]) -> str:
    """A section for each registered operator."""
    return "\n\n".join(f"### `{name}`\n\n{cases_of(name)(results)}" for name in OPERATORS)


def goals(results: dict[str, Results]) -> str:
    """The section of what operators were to reach; empty until something was measured."""
    found = per_result(goal_table, "")(results)
    heading = (
        "## Operators against the published sequence on a CPU\n\n"
        "Forward and backward, one image of 480×640, fp32. How time and kept bytes grow with scales, channels, tasks "
        "and pixels is on the pages of [aggregation heads](aggregation.md#when-it-pays) and "
        "[cross attention](cross_attention.md#when-it-pays)."
    )
    return f"{heading}\n\n{found}" if found else ""


def training_on(device: str) -> Callable[[dict[str, Results]], str]:
    """The training step on a device type."""

    def block(results: dict[str, Results]) -> str:
        found = [
            result
            for result in results.values()
            if result["environment"]["device"] == device and any(training_steps(result))
        ]
        return "\n\n".join(map(training_table, found)) or f"No result measured on {device} yet."

    return block


def plots(results: dict[str, Results]) -> str:
    """The plots of every result, as docs/benchmarks.md shows them."""
    from .plots import PLOTS

    lines = [
        f"![{title}, {stem}](plots/{stem}-{name}.png)"
        for stem, result in results.items()
        for name, (title, _, points) in PLOTS.items()
        if points(result)
    ]
    return "\n\n".join(lines)


BLOCKS: Blocks = {
    "cpu": training_on("cpu"),
    "gpu": training_on("cuda"),
    "captured": lambda results: captured_table(results.values()) or "No result has captured operators yet.",
    "goals": goals,
    **{f"growth-{name}": per_result(growth_table(name), "") for name in ("aggregation_head", "cross_attention")},
    "conditions": per_result(conditions, "No result has conditions."),
    "network": cases_of("network"),
    "operators": operators,
    "attention_schemes": per_result(scheme_table, "No result has a case of attention_schemes."),
    "unavailable": per_result(unavailabilities, "Every provider was available."),
    "plots": plots,
}
"""By name, the text of a block."""
