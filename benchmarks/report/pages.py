"""Writes tables into README.md and docs/benchmarks.md, and plots into docs/plots/, from result files alone."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from seqca.ops.shared.operator import OPERATORS

from ..harness.environment import ROOT
from ..harness.results import ResultsError, load, write
from .captured import captured_table
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

PAGES = ("README.md", "docs/benchmarks.md")
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
    if not check:
        from .plots import draw  # matplotlib is optional

        for path in draw(results, root / "docs" / "plots"):
            print(f"wrote {path.relative_to(root)}")
    return status


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


def filled(page: str, results: dict[str, Results]) -> str:
    """A page with its blocks written anew."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name not in BLOCKS:
            raise ResultsError(f"block: got {name!r}, expected one of {', '.join(BLOCKS)}")
        return f"{match[1]}{BLOCKS[name](results)}\n{match[3]}"

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


BLOCKS: dict[str, Callable[[dict[str, Results]], str]] = {
    "cpu": training_on("cpu"),
    "gpu": training_on("cuda"),
    "captured": lambda results: captured_table(results.values()) or "No result has captured operators yet.",
    "conditions": per_result(conditions, "No result has conditions."),
    "network": cases_of("network"),
    "operators": operators,
    "attention_schemes": per_result(scheme_table, "No result has a case of attention_schemes."),
    "unavailable": per_result(unavailabilities, "Every provider was available."),
    "plots": plots,
}
"""By name, the text of a block."""
