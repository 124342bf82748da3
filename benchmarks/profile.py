"""Where the time of a training step goes, by part of the network; on a GPU by kernel, too.

On a GPU the step is replayed as a graph, in which a tiny kernel marks where a part begins, forward and backward: every
kernel between two marks belongs to the part of the first. On a CPU, where work is done when its call returns, the clock
is read at those places.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Generator, Tensor, nn
from torch.profiler import ProfilerActivity, profile

from seqca.losses import MultiTaskLoss
from seqca.ops.shared.device import checked_device
from seqca.ops.shared.dispatch import use_backend

from .cases.labels import labels
from .cases.network import network
from .cases.shapes import Dataset, nyud
from .harness.environment import environment
from .harness.execution import capture
from .harness.limits import MATRIX, measure_limits
from .harness.parts import Parts
from .harness.results import write
from .harness.timing import median_replay
from .launches import followed
from .network_parts import BETWEEN, LOSSES, follow

REPEATS = 5
"""Steps of which the median is told."""

TURNS = 4
"""Of the backends on a GPU, one after the other."""

LONGEST = 40
"""Rows of the printed table."""

Row = tuple[str, str, str, int, float]
"""Part, direction, kernel, calls, seconds."""


@triton.jit
def part_begins(x):
    """Marks a place in the stream."""


class Kernel(NamedTuple):
    """One kernel of a replay."""

    name: str
    start: float
    """In seconds, from any origin."""
    seconds: float


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--backends", nargs="*", default=["auto", "reference"], help="profiled one after the other")
    parser.add_argument("--dry", action="store_true", help="a small step")
    options = parser.parse_args()
    device = checked_device(None)
    dtype = "bf16" if device == "cuda" else "fp32"
    data = nyud(8 if device == "cuda" else 1)
    if options.dry:
        data = data._replace(batch=2, height=64, width=64)
    found: dict[str, Any] = {
        "environment": environment(device),
        "dtype": dtype,
        "batch": data.batch,
        "matrix rate": measure_limits(device, [dtype])[MATRIX][dtype]["value"],
        "operations": operations(data),
        "steps": {},
    }
    for backend in options.backends:
        found["steps"][backend] = profiled(backend, data, device)
        write(json.dumps(found, indent=1), options.output)
        print(table(backend, found["steps"][backend]), flush=True)
    if device == "cuda":
        found["replays"] = replays(options.backends, data)
        write(json.dumps(found, indent=1), options.output)


def operations(data: Dataset) -> list[tuple[str, str, int]]:
    """Multiplications and additions of products and convolutions by part and direction, on the backend aten.

    What is computed again in the pass backward counts again.
    """
    counted = followed("aten", data).operations
    return [(part, direction, number) for (part, direction), number in counted.items()]


class Training(NamedTuple):
    """What a step is made with."""

    net: nn.Module
    objective: MultiTaskLoss
    images: Tensor
    targets: dict[str, Tensor]
    parameters: list[nn.Parameter]
    """That have gradients."""


def training(data: Dataset, device: str) -> Training:
    """On random images."""
    net, objective = network(tuple(data.tasks.items()), device).train(), MultiTaskLoss(data.tasks)
    generator = Generator(device).manual_seed(0)
    images = torch.randn(data.batch, 3, data.height, data.width, generator=generator, device=device)
    return Training(net, objective, images, labels(data, generator), [x for x in net.parameters() if x.requires_grad])


def half(device: str) -> AbstractContextManager[Any]:
    """On a GPU autocast to bfloat16."""
    return torch.autocast(device, torch.bfloat16) if device == "cuda" else nullcontext()


def profiled(backend: str, data: Dataset, device: str) -> dict[str, Any]:
    """A training step without its optimiser: seconds from its begin to its end, and what they are made of."""
    net, objective, images, targets, parameters = training(data, device)
    marks: list[tuple[str, str]] = []
    times: list[float] = []
    place = torch.zeros(1, device=device)

    def entered(part: str, direction: str) -> None:
        marks.append((part, direction))
        if device == "cuda":
            part_begins[(1,)](place)
        times.append(time.perf_counter())

    parts = Parts(entered)

    def step() -> list[Tensor]:
        marks.clear()
        times.clear()
        parts.start()
        with half(device):
            parts.begin(BETWEEN, images)
            output = net(images)
            parts.begin(LOSSES, output)
            loss = objective(output, targets).total
        parts.turn(loss)
        gradients = list(torch.autograd.grad(loss, parameters))
        times.append(time.perf_counter())
        return gradients

    handles = follow(net, parts)
    try:
        with use_backend(backend):
            if device == "cpu":
                return median_by_part(lambda: (step(), list(times))[1], marks)
            graph, _results = capture(step)
            graph.replay()
            return by_part(kernels_of(graph.replay), marks)
    finally:
        for handle in handles:
            handle.remove()


def replays(backends: Sequence[str], data: Dataset) -> dict[str, list[float]]:
    """Seconds of the step without marks on each backend, replayed as graphs: the median of each of four turns."""
    graphs = {}
    for backend in backends:
        with use_backend(backend):
            graphs[backend] = capture(training_step(data, "cuda"))
    found: dict[str, list[float]] = {backend: [] for backend in backends}
    for _ in range(TURNS):
        for backend, (graph, _results) in graphs.items():
            found[backend].append(median_replay(graph, REPEATS))
    return found


def training_step(data: Dataset, device: str) -> Callable[[], list[Tensor]]:
    """A step on random images, which returns the gradients; on a GPU under autocast to bfloat16."""
    net, objective, images, targets, parameters = training(data, device)

    def step() -> list[Tensor]:
        with half(device):
            loss = objective(net(images), targets).total
        return list(torch.autograd.grad(loss, parameters))

    return step


def median_by_part(step: Callable[[], list[float]], marks: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The median step by the clock, after one that does not count.

    Args:
        step: does one and returns when each mark was met, and its end.
        marks: parts and directions that begin, filled by the step.
    """
    step()
    runs = [step() for _ in range(REPEATS)]
    median = statistics.median_low([times[-1] - times[0] for times in runs])
    times = next(times for times in runs if times[-1] - times[0] == median)
    sums: dict[tuple[str, str], list[float]] = {}
    for mark, start, end in zip(marks, times[:-1], times[1:], strict=True):
        entry = sums.setdefault(mark, [0, 0.0])
        entry[0] += 1
        entry[1] += end - start
    return {"seconds": median, "kernels": [(*mark, "", int(n), s) for mark, (n, s) in sums.items()]}


def kernels_of(work: Callable[[], None]) -> list[Kernel]:
    """The kernels, copies and fills of some work, in the order in which they began."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    found = [
        Kernel(x["name"], x["ts"] * 1e-6, x["dur"] * 1e-6)
        for x in events
        if x.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    return sorted(found, key=lambda kernel: kernel.start)


def by_part(kernels: Sequence[Kernel], marks: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The sums of all kernels of one name in one part and direction, and the time from the first to the last."""
    sums: dict[tuple[str, str, str], list[float]] = {}
    waiting = iter(marks)
    part, direction = "", "forward"
    for kernel in kernels:
        if kernel.name == part_begins.fn.__name__:
            part, direction = next(waiting)
            continue
        entry = sums.setdefault((part, direction, kernel.name), [0, 0.0])
        entry[0] += 1
        entry[1] += kernel.seconds
    if (left := len(list(waiting))) > 0:
        raise RuntimeError(f"marks: got {len(marks) - left} in the stream, expected {len(marks)}")
    span = max((x.start + x.seconds for x in kernels), default=0.0) - min((x.start for x in kernels), default=0.0)
    return {"seconds": span, "kernels": [(*key, int(n), s) for key, (n, s) in sums.items()]}


def table(name: str, step: dict[str, Any]) -> str:
    """What a step takes by part, and by the kernels that take longest."""
    rows = step["kernels"]
    busy = sum(row[4] for row in rows)
    lines = [
        f"{name}: {step['seconds'] * 1e3:.1f} ms from first to last, {busy * 1e3:.1f} ms in "
        f"{sum(row[3] for row in rows):,} kernels"
    ]
    for column, limit in ((slice(0, 2), None), (slice(2, 3), LONGEST), (slice(0, 3), LONGEST)):
        sums: dict[tuple[str, ...], list[float]] = {}
        for row in rows:
            entry = sums.setdefault(tuple(row[column]), [0, 0.0])
            entry[0] += row[3]
            entry[1] += row[4]
        longest = sorted(sums.items(), key=lambda item: -item[1][1])[:limit]
        lines += ["", *(f"{s * 1e3:9.3f} ms {n:6.0f}  {' '.join(key)[:120]}" for key, (n, s) in longest)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
