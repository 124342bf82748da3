"""What the kernels of a training step take with other warps and stages: where their launch options are not the best.

Each launch of the step, of those alike one, is run again and again on the tensors that it had, captured in a graph.
Short ones find these in the cache, where the step would not: trust what is said of long ones. Nothing is compared but
time, and nothing said of registers that spill, which the tests refuse.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from seqca.kernels.launch import Launch, record, start
from torch import Tensor

from benchmarks.cases.shapes import nyud
from benchmarks.harness.environment import environment
from benchmarks.harness.results import write
from benchmarks.harness.timing import replayed
from benchmarks.profile import training_step
from seqca.ops import softplus, use_backend
from seqca.ops.shared.device import checked_device

STAGES = (1, 2, 3, 4)
REPEATS = 5
"""Of a launch in a graph."""

ROWS = 40
"""Of the printed table."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.launch_options", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--minutes", type=float, default=3, help="after which no other launch is tried")
    parser.add_argument("--dry", action="store_true", help="one kernel, on a CPU")
    options = parser.parse_args()
    device, end = torch.device(checked_device(None)), time.monotonic() + 60 * options.minutes
    found: list[dict[str, Any]] = []
    for entry, launch in by_time(grouped(small_call(device) if options.dry else launches_of_a_step(device)), device):
        if time.monotonic() > end:
            break
        found.append(entry | {"others": tried(launch, device)})
        write(json.dumps({"environment": environment(device.type), "launches": found}), options.output)
    print(table(found), flush=True)


def launches_of_a_step(device: torch.device) -> list[Launch]:
    """Those of the network on eight images, after one that makes what is kept for all."""
    step = training_step(nyud(8), device.type)
    step()
    return recorded(step)


def small_call(device: torch.device) -> list[Launch]:
    """Those of `softplus`, forward."""
    x = torch.linspace(-1, 1, 64, device=device)
    with use_backend("triton"):
        return recorded(lambda: [softplus(x)])


def recorded(work: Callable[[], list[Tensor]]) -> list[Launch]:
    """The launches of some work, which are run; those of passes backward too, which else have threads of their own."""
    with record(running=True) as launches, torch.autograd.set_multithreading_enabled(False):
        work()
    return launches


def grouped(launches: Sequence[Launch]) -> list[list[Launch]]:
    """Launches of one kernel on tensors of the same shapes, strides and dtypes."""
    groups: dict[Any, list[Launch]] = {}
    for x in launches:
        key = x.kernel.fn.__name__, x.grid, _shapes(x.arguments), tuple(x.options.items())
        groups.setdefault(key, []).append(x)
    return list(groups.values())


def by_time(groups: Sequence[Sequence[Launch]], device: torch.device) -> list[tuple[dict[str, Any], Launch]]:
    """A record and a launch of each group, those first that take longest in all."""
    found = []
    for launch, *others in groups:
        what = {"kernel": launch.kernel.fn.__name__, "grid": launch.grid, "options": launch.options}
        found.append((what | {"launches": 1 + len(others), "seconds": timed(launch, device)}, launch))
    return sorted(found, key=lambda x: -x[0]["seconds"] * x[0]["launches"])


def tried(launch: Launch, device: torch.device) -> list[tuple[dict[str, int], float | str]]:
    """Other options and the seconds they take, or what went wrong."""
    found: list[tuple[dict[str, int], float | str]] = []
    for options in other_options(launch.options):
        try:
            found.append((options, timed(launch._replace(options=options), device)))
        except Exception as error:  # whatever a compiler or driver raises; the other options still say something
            found.append((options, f"{type(error).__name__}: {str(error)[:100]}"))
    return found


def other_options(own: dict[str, int]) -> Iterator[dict[str, int]]:
    """Half and twice the warps, and other numbers of stages."""
    for warps in (own["num_warps"] // 2, own["num_warps"] * 2):
        if 1 <= warps <= 16:
            yield own | {"num_warps": warps, "maxnreg": min(255, 65536 // (32 * warps))}
    for stages in STAGES:
        if stages != own.get("num_stages", 3):
            yield own | {"num_stages": stages}


def timed(launch: Launch, device: torch.device) -> float:
    """Seconds of a launch, 0 on a CPU."""

    def work() -> list[Tensor]:
        for _ in range(REPEATS):
            start(launch, device)
        return []

    return replayed(work, 3, device.type) / REPEATS


def table(found: Sequence[dict[str, Any]]) -> str:
    """What other options would win of the step, those first that win most."""
    lines = []
    for x in found:
        times = [(options, seconds) for options, seconds in x["others"] if isinstance(seconds, float)]
        if times:
            options, best = min(times, key=lambda entry: entry[1])
            changed = {name: value for name, value in options.items() if value != x["options"].get(name)}
            lines.append((x["launches"] * (x["seconds"] - best), f"{x['kernel']} {list(x['grid'])}: {changed}"))
    lines.sort(key=lambda line: -line[0])
    return "\n".join(f"{gain * 1e6:8.1f} us  {what}" for gain, what in lines[:ROWS])


def _shapes(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.shape, x.stride(), x.dtype
    if isinstance(x, dict):
        return tuple((name, _shapes(value)) for name, value in x.items())
    return tuple(map(_shapes, x)) if isinstance(x, tuple) else x


if __name__ == "__main__":
    main()
