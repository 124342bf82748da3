"""What every kernel takes from the GPU: registers, shared memory, tensor cores; and how long it takes at least.

    python -m seqca.kernels.resources > docs/resources.md

compiles the cases of every operator ahead of time, for which no GPU is needed, and prints for each kernel the case that
takes most, and the time predicted for the network's shapes; `--all` prints every case. It fails where registers spill,
shared memory is exceeded or 16-bit inputs are multiplied without tensor cores. Needs a process in which
TRITON_INTERPRET is not set.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType

import triton

import seqca.ops  # registers the operators
from seqca.ops.shared.operator import OPERATORS

from .compilation import SHARED_LIMIT, Resources, measure
from .predictions import BANDWIDTH

_ARCHITECTURES = [f"sm_{arch}" for arch in SHARED_LIMIT]


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


def sources() -> dict[str, Path]:
    """All that the kernels are compiled from, by the name of the module: theirs, and what these use of the package."""
    kernels, package = Path(__file__).parent, Path(seqca.ops.__file__).parents[1]
    found = {f"kernels/{path.relative_to(kernels).as_posix()}": path for path in kernels.rglob("*.py")}
    used = (*(package / "ops" / "shared").rglob("*.py"), package / "configuration.py", package / "pairs.py")
    found |= {path.relative_to(package).as_posix(): path for path in used}
    return dict(sorted(found.items()))


def sources_hash() -> str:
    """Of `sources`."""
    digest = hashlib.sha256()
    for name, path in sources().items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def page(rows: Sequence[Resources]) -> str:
    """The page docs/resources.md."""
    return f"""# Resources of the Triton kernels

Made by `python -m seqca.kernels.resources` with Triton {triton.__version__} of sources {sources_hash()}: compiled
ahead of time, not measured. For each kernel the table has the case that takes most: registers of a thread × warps of a
program, bytes of registers that spill where any do, shared memory of a program, instructions on tensor cores. Warps are
those that the launcher chooses on that architecture. `--all` prints every case.

{worst_table(rows)}

## Predicted

No time here is measured: it is the least that a launch can take on an H100 or H200 (SXM: 132 multiprocessors at
1.98 GHz, 3.35 and 4.8 TB/s), in bfloat16, for eight images of 480×640 and four tasks. A launch must read and write its
tensors, each counted once and as a whole; issue its instructions, one a cycle on each of the four parts of a
multiprocessor; and multiply on tensor cores. The longest of these is the limit, which is named. What a launch waits for
comes on top. Instructions are those of all warps, counted by following the binary's control flow for a few programs;
branches on data are taken to skip.

Of the launches of a kernel in a call the largest is shown, and of the calls the one that takes longest. Tokens are the
positions of the finest maps of the call, over images and over pairs, or tasks where `cross_attention` takes all; of
`upsampled_loss` they are pixels. First stands what would win most if nothing but bytes counted.

{predicted_table(rows)}

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
    """Markdown: of each kernel the case that takes most, a column for each compute capability."""
    worst: dict[str, dict[int, Resources]] = {}
    for r in rows:
        of_kernel = worst.setdefault(r.kernel, {})
        of_kernel[r.arch] = max(of_kernel.get(r.arch, r), r, key=lambda x: (x.spills, x.registers, x.shared))
    cells = [
        [kernel, *(f"{_cell(x := of[arch])}: {x.dtype}, {x.shape}" if arch in of else "" for arch in SHARED_LIMIT)]
        for kernel, of in sorted(worst.items())
    ]
    return _table(["kernel", *_ARCHITECTURES], cells)


def predicted_table(rows: Sequence[Resources]) -> str:
    """Markdown: of each kernel the launch that takes longest, by what others than bytes cost it."""
    longest = longest_launches(rows)
    gpu = next(iter(BANDWIDTH))
    cells = []
    for kernel, r in sorted(longest.items(), key=lambda item: -item[1].prediction.beyond_bytes(gpu)):
        x = r.prediction
        times = [f"{time:,.0f} µs: {limit}" for time, limit in map(x.predicted, BANDWIDTH)]
        instructions, number_of_bytes = x.instructions / x.tokens, x.bytes / x.tokens
        numbers = [f"{instructions:.4g}", f"{number_of_bytes:.4g}", str(x.launches), str(x.resident)]
        cells.append([kernel, r.shape, *numbers, *times])
    names = ["instructions per token", "bytes per token", "launches", "programs per multiprocessor"]
    return _table(["kernel", "case", *names, *BANDWIDTH], cells)


def longest_launches(rows: Sequence[Resources]) -> dict[str, Resources]:
    """Of each kernel the prediction that is longest."""
    predicted = [r for r in rows if r.prediction]
    return {r.kernel: r for r in sorted(predicted, key=lambda r: r.prediction.predicted(next(iter(BANDWIDTH))))}


def full_table(rows: Sequence[Resources]) -> str:
    """Markdown: every case; of launches that differ in layout alone, the one with most registers."""
    found: dict[tuple[str, str, str], dict[int, Resources]] = {}
    for r in sorted(rows, key=lambda r: (r.kernel, r.dtype, r.registers)):
        found.setdefault((r.kernel, r.shape, r.dtype), {})[r.arch] = r
    cells = [[*key, *(_cell(of[arch]) if arch in of else "" for arch in SHARED_LIMIT)] for key, of in found.items()]
    return _table(["kernel", "shape", "dtype", *_ARCHITECTURES], cells)


def _cell(r: Resources) -> str:
    spills = f"{r.spills} bytes spill, " if r.spills else ""
    return f"{r.registers} × {r.warps}, {spills}{r.shared / 1024:.0f} KiB, {r.tensor_cores}"


def _table(names: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows))


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
