"""Launch parameters of linear attention, timed on the network's calls; a patch of the shipped table for what is faster.

For each dtype and class of shapes the kernels are gone through one after the other: all candidates of one are timed in
turns with the parameters so far, the others unchanged. What spills or does not fit is left out before.
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
from typing import Any

import torch
from seqca.kernels.compilation import CompiledCase, measure
from seqca.kernels.linear_attention import backward, forward
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
    records = []
    for kernel in KERNELS:
        shipped: LaunchParameters = PARAMETERS[dtype][key]
        candidates = list(itertools.islice(_candidates(getattr(shipped, kernel)), 1 if dry else None))
        if not dry:
            candidates = compiled(dtype, channels, tokens, data.batch, kernel, candidates)
        times = {}
        for sizes in (getattr(shipped, kernel), *candidates):
            PARAMETERS[dtype][key] = shipped._replace(**{kernel: sizes})
            times[sizes] = timed(arguments, device)
        before, best = times[getattr(shipped, kernel)], min(times, key=lambda sizes: times[sizes])
        faster = times[best] < (1 - GAIN) * before
        PARAMETERS[dtype][key] = shipped._replace(**{kernel: best}) if faster else shipped
        print(f"{dtype}, C = {channels}, {kernel}: {before * 1e6:.0f} -> {times[best] * 1e6:.0f} us {best}", flush=True)
        records.append(
            {"dtype": str(dtype), "channels": channels, "kernel": kernel, "times": [[*b, t] for b, t in times.items()]}
        )
    return records


def _candidates(shipped: TileSizes) -> Iterator[TileSizes]:
    """Other numbers of tokens, warps and stages; the tile's channels belong to the class."""
    for tokens, warps, stages in itertools.product((16, 32, 64, 128), (2, 4, 8), (2, 3, 4)):
        sizes = shipped._replace(tokens=tokens, warps=warps, stages=stages)
        if sizes != shipped:
            yield sizes


def compiled(
    dtype: torch.dtype, channels: int, tokens: int, batch: int, kernel: str, candidates: list[TileSizes]
) -> list[TileSizes]:
    """Those that neither spill nor exceed shared memory; all are compiled side by side, into Triton's cache."""
    major, minor = torch.cuda.get_device_capability()
    jobs = [(dtype, channels, tokens, batch, kernel, sizes, 10 * major + minor) for sizes in candidates]
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 2), mp_context=get_context("spawn")) as pool:
        return [sizes for sizes, right in zip(candidates, pool.map(_fits, jobs), strict=True) if right]


def _fits(job: tuple[Any, ...]) -> bool:
    dtype, channels, tokens, batch, kernel, sizes, arch = job
    key = class_of(channels, channels, dtype)
    PARAMETERS[dtype][key] = PARAMETERS[dtype][key]._replace(**{kernel: sizes})

    def run() -> None:
        maps = [[torch.empty(batch, channels, tokens, dtype=dtype, device="meta").mT] for _ in range(4)]
        _, states = forward(*maps[:3], 1e-12)
        backward(maps[3], *maps[:3], states, 1e-12)

    try:
        return not any(row.faults() for row in measure(CompiledCase("", dtype, run), arch))
    except Exception as error:  # what a compiler cannot do is no candidate
        print(f"{kernel} {sizes}: {type(error).__name__}: {str(error)[:100]}", flush=True)
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
