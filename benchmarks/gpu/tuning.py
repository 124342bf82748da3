"""Launch parameters of linear attention, timed on the network's calls; a patch of the shipped table for what is faster.

For each dtype and class of shapes the kernels are gone through one after the other: all candidates of one are timed in
turns with the parameters so far, the others unchanged. What spills or does not fit is left out before. The fastest that
neither spills nor exceeds shared memory in any layout, on any architecture, is taken: tokens and stages for all of
these, warps for the one that it was timed on.
"""

import argparse
import difflib
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from seqca.kernels.compilation import SHARED_LIMIT, CompiledCase, measure
from seqca.kernels.launch import ByArchitecture, architecture_of
from seqca.kernels.linear_attention import backward, forward
from seqca.kernels.linear_attention.cases import cases_of
from seqca.kernels.linear_attention.parameters import PARAMETERS, LaunchParameters, TileSizes, class_of
from torch import Tensor

from benchmarks.cases.shapes import CHANNELS, Dataset, nyud, tokens_per_scale
from benchmarks.harness.environment import ROOT, environment
from benchmarks.harness.results import write
from benchmarks.harness.timing import replayed
from seqca.ops.shared.device import checked_device

GAIN = 0.03
"""By which a candidate must be faster than what is shipped."""
KERNELS = ("states", "output", "queries", "sources")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.tuning", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for tuning.json and parameters.patch")
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--channels", nargs="*", type=int, default=list(CHANNELS), help="of the network's scales")
    parser.add_argument("--dry", action="store_true", help="one candidate on tiny maps, on a CPU")
    options = parser.parse_args()
    device = checked_device(None)
    arch = architecture_of(torch.device(device))
    if arch not in (0, *SHARED_LIMIT):
        print(f"nothing is tuned for sm_{arch}, but for {', '.join(f'sm_{x}' for x in SHARED_LIMIT)}")
        return
    data = nyud(8)
    if options.dry:  # in the interpreter, which is slow and does not know bfloat16
        data = data._replace(batch=1, height=32, width=32, tasks=dict(list(data.tasks.items())[:2]))
        options.dtypes, options.channels = ["fp32"], options.channels[:1]
    found: list[dict[str, Any]] = []
    for dtype, channels in itertools.product(options.dtypes, options.channels):
        found += tuned(DTYPES[dtype], channels, data, device, options.dry)
        write(json.dumps({"environment": environment(device), "timed": found}), options.output / "tuning.json")
        write(patch(), options.output / "parameters.patch")
    print(patch() or "nothing is faster than what is shipped")


def tuned(dtype: torch.dtype, channels: int, data: Dataset, device: str, dry: bool) -> list[dict[str, Any]]:
    """Times the candidates of every kernel on the calls of one scale; the table in memory takes over what is faster."""
    tokens = tokens_per_scale(data)[CHANNELS.index(channels)]
    pairs = len(data.tasks) * (len(data.tasks) - 1)
    key = class_of(channels, channels, dtype)
    arguments = [
        [torch.rand(data.batch, channels, tokens, device=device).to(dtype).mT for _ in range(pairs)] for _ in range(4)
    ]
    arch = architecture_of(torch.device(device))
    records = []
    for kernel in KERNELS:
        shipped: LaunchParameters = PARAMETERS[dtype][key]
        own: TileSizes = getattr(shipped, kernel)
        candidates = list(itertools.islice(_candidates(own, arch), 1 if dry else None))
        if not dry:
            timed_case = _Job(dtype, key, kernel, own, arch, (channels, tokens, data.batch))
            candidates = compiled([timed_case._replace(sizes=sizes) for sizes in candidates])
        times = {}
        for sizes in (own, *candidates):
            PARAMETERS[dtype][key] = shipped._replace(**{kernel: sizes})
            times[sizes] = timed(arguments, device)
        faster = sorted((x for x in times if times[x] < (1 - GAIN) * times[own]), key=times.__getitem__)
        best = next((x for x in faster if dry or fits_everywhere(dtype, key, kernel, x)), own)
        PARAMETERS[dtype][key] = shipped._replace(**{kernel: best})
        before, after = (f"{times[x] * 1e6:.0f}" for x in (own, best))
        print(f"{dtype}, C = {channels}, {kernel}: {before} -> {after} us {best}", flush=True)
        records.append(
            {"dtype": str(dtype), "channels": channels, "kernel": kernel, "times": [[*b, t] for b, t in times.items()]}
        )
    return records


def _candidates(shipped: TileSizes, arch: int) -> Iterator[TileSizes]:
    """Other numbers of tokens, warps and stages; the tile's channels belong to the class."""
    for tokens, warps, stages in itertools.product((16, 32, 64, 128), (2, 4, 8), (2, 3, 4)):
        sizes = shipped._replace(tokens=tokens, warps=on_architecture(shipped.warps, arch, warps), stages=stages)
        if sizes != shipped:
            yield sizes


def on_architecture(shipped: int | ByArchitecture, arch: int, warps: int) -> int | ByArchitecture:
    """What is shipped with so many warps on one compute capability; the plain number where that is the one of all."""
    own = shipped if isinstance(shipped, ByArchitecture) else ByArchitecture(shipped)
    name = f"sm_{arch}" if arch else "default"
    changed = own._replace(**{name: warps if warps != own.default or not arch else None})
    return changed if any(x is not None for x in changed[1:]) else changed.default


class _Job(NamedTuple):
    """Parameters of a kernel to be compiled in another process."""

    dtype: torch.dtype
    key: int
    kernel: str
    sizes: TileSizes
    arch: int
    case: tuple[int, int, int] | int
    """Channels, tokens and images of maps as the tuner passes them, or which of the compiled cases."""


def compiled(jobs: list[_Job]) -> list[TileSizes]:
    """The sizes that neither spill nor exceed shared memory; all are compiled side by side, into Triton's cache.

    One layout is enough to see which are worth timing.
    """
    return list(itertools.compress([job.sizes for job in jobs], _side_by_side(jobs)))


def fits_everywhere(dtype: torch.dtype, key: int, kernel: str, sizes: TileSizes) -> bool:
    """Whether nothing spills or exceeds shared memory in all layouts that the tests compile, on all architectures."""
    cases = range(len(cases_of(dtype, key)))
    return all(_side_by_side([_Job(dtype, key, kernel, sizes, arch, i) for i in cases for arch in SHARED_LIMIT]))


def _side_by_side(jobs: list[_Job]) -> list[bool]:
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 2), mp_context=get_context("spawn")) as pool:
        return list(pool.map(_fits, jobs))


def _fits(job: _Job) -> bool:
    PARAMETERS[job.dtype][job.key] = PARAMETERS[job.dtype][job.key]._replace(**{job.kernel: job.sizes})

    def run() -> None:
        channels, tokens, batch = job.case
        maps = [[torch.empty(batch, channels, tokens, dtype=job.dtype, device="meta").mT] for _ in range(4)]
        _, states = forward(*maps[:3], 1e-12)
        backward(maps[3], *maps[:3], states, 1e-12)

    by_index = isinstance(job.case, int)
    case = cases_of(job.dtype, job.key)[job.case] if by_index else CompiledCase("", job.dtype, run)
    try:
        return not any(row.faults() for row in measure(case, job.arch))
    except Exception as error:  # what a compiler cannot do is no candidate
        print(f"{job.kernel} {job.sizes}: {type(error).__name__}: {str(error)[:100]}", flush=True)
        return False


def timed(arguments: list[list[Tensor]], device: str) -> float:
    """Seconds of a forward and a backward pass: the median of twenty, replayed as a graph so that no launch counts."""
    q, k, v, grad = arguments

    def work() -> list[Tensor]:
        outputs, states = forward(q, k, v, 1e-12)
        return [*outputs, *itertools.chain(*backward(grad, q, k, v, states, 1e-12))]

    return replayed(work, 20, device)


def patch() -> str:
    """The difference between the shipped table and the one in memory, for `git apply`; empty where there is none."""
    name = "kernels/linear_attention/parameters.py"
    before = (ROOT / name).read_text()
    after = before[: before.index("PARAMETERS: dict")] + table()
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{name}", f"b/{name}")
    return "".join(lines)


def table() -> str:
    """The table in memory as it stands at the end of its file."""
    lines = ["PARAMETERS: dict[torch.dtype, dict[int, LaunchParameters]] = {"]
    for dtype, classes in PARAMETERS.items():
        lines.append(f"    {dtype}: {{")
        for key, parameters in classes.items():
            lines.append(f"        {key}: LaunchParameters(")
            for kernel in KERNELS:
                lines.append(f"            {kernel}=TileSizes{tuple(getattr(parameters, kernel))},")
            lines += [f"            parts={parameters.parts},", "        ),"]
        lines.append("    },")
    return "\n".join([*lines, "}"]) + "\n"


if __name__ == "__main__":
    main()
