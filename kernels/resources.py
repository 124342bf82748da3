"""What every kernel takes from the GPU: registers, shared memory, tensor cores.

    python -m seqca.kernels.resources > docs/resources.md

compiles the cases of every operator ahead of time, for which no GPU is needed, and prints for each kernel the case that
takes most; `--all` prints every case. It fails where registers spill, shared memory is exceeded or 16-bit inputs are
multiplied without tensor cores. Needs a process in which TRITON_INTERPRET is not set.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from types import ModuleType

import triton

import seqca.ops  # noqa: F401, registers the operators
from seqca.ops.shared.operator import OPERATORS

from .compilation import SHARED_LIMIT, Resources, measure


def modules() -> dict[str, ModuleType]:
    """Of every operator with Triton kernels, the module that has its compiled `CASES`."""
    names = [name for name, operator in OPERATORS.items() if "triton" in operator.backends]
    return {name: import_module(f"{__package__}.{name}.cases") for name in names}


def compiled(quick: bool) -> Iterator[Resources]:
    """Compiles all cases for every compute capability, or those that the tests compile."""
    for operator, module in modules().items():
        for case in module.CASES:
            for arch in case.tested_on if quick else SHARED_LIMIT:
                print(f"{operator}, {case.shape}, {case.dtype}, sm_{arch}", file=sys.stderr, flush=True)
                yield from measure(case, arch)


def page(rows: Sequence[Resources]) -> str:
    """The page docs/resources.md."""
    return f"""# Resources of the Triton kernels

Made by `python -m seqca.kernels.resources` with Triton {triton.__version__}: compiled ahead of time, not measured. For
each kernel and dtype the table has the case that takes most: registers of a thread, bytes of registers that spill
where any do, shared memory of a program, instructions on tensor cores. `--all` prints every case.

{worst_table(rows)}

{cases_text()}"""


def cases_text() -> str:
    """The part of the page that tells what is compiled."""
    parts = ["## What is compiled", f"For {', '.join(f'sm_{arch}' for arch in SHARED_LIMIT)}."]
    for operator, module in modules().items():
        dtypes: dict[str, list[str]] = {}
        for case in module.CASES:
            dtypes.setdefault(case.shape, []).append(str(case.dtype).removeprefix("torch."))
        shapes: dict[str, list[str]] = {}
        for shape, of_shape in dtypes.items():
            shapes.setdefault(", ".join(of_shape), []).append(shape)
        listed = "\n".join(f"- {names}: {'; '.join(those)}" for names, those in shapes.items())
        parts += [f"### {operator}", str(module.__doc__).strip(), listed]
    return "\n\n".join(parts) + "\n"


def worst_table(rows: Sequence[Resources]) -> str:
    """Markdown: of each kernel and dtype the case that takes most, a column for each compute capability."""
    worst: dict[tuple[str, str], dict[int, Resources]] = {}
    for r in rows:
        of_kernel = worst.setdefault((r.kernel, r.dtype), {})
        of_kernel[r.arch] = max(of_kernel.get(r.arch, r), r, key=lambda x: (x.spills, x.registers, x.shared))
    dtypes: dict[tuple[str, ...], list[str]] = {}
    for (kernel, dtype), found in sorted(worst.items()):
        cells = [f"{_cell(found[arch])}: {found[arch].shape}" if arch in found else "" for arch in SHARED_LIMIT]
        dtypes.setdefault((kernel, *cells), []).append(dtype)
    return _table(
        ["kernel", "dtype"], [[kernel, ", ".join(names), *cells] for (kernel, *cells), names in dtypes.items()]
    )


def full_table(rows: Sequence[Resources]) -> str:
    """Markdown: every case; of launches that differ in layout alone, the one with most registers."""
    found: dict[tuple[str, str, str], dict[int, Resources]] = {}
    for r in sorted(rows, key=lambda r: (r.kernel, r.dtype, r.registers)):
        found.setdefault((r.kernel, r.shape, r.dtype), {})[r.arch] = r
    cells = [[*key, *(_cell(of[arch]) if arch in of else "" for arch in SHARED_LIMIT)] for key, of in found.items()]
    return _table(["kernel", "shape", "dtype"], cells)


def _cell(r: Resources) -> str:
    spills = f"{r.spills} bytes spill, " if r.spills else ""
    return f"{r.registers}, {spills}{r.shared / 1024:.0f} KiB, {r.tensor_cores}"


def _table(names: list[str], rows: list[list[str]]) -> str:
    head = [*names, *(f"sm_{arch}" for arch in SHARED_LIMIT)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m seqca.kernels.resources", description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="a table of every case instead of the page")
    parser.add_argument("--quick", action="store_true", help="compile only what the tests compile")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the page")
    arguments = parser.parse_args()
    rows = list(compiled(arguments.quick))
    if arguments.json:
        print("\n".join(json.dumps(asdict(r)) for r in rows))
    else:
        sys.stdout.write(full_table(rows) + "\n" if arguments.all else page(rows))
    faults = [f"{r.kernel}, {r.shape}, {r.dtype}, sm_{r.arch}: {fault}" for r in rows for fault in r.faults()]
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
