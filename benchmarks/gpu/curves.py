"""Training on rooms: first steps, judged; then the loss of many, on the reference and the default backends, and of the
ablation.

The first steps of the default backends are judged by the tolerance rule (`descent.py`). Later rounding has grown, so
that curves part in any case. How far, a second run of the reference shows, on images that differ by a unit in their
last place.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.gpu.descent import Descent, Judge
from benchmarks.harness.environment import environment
from benchmarks.harness.results import write
from seqca.data.rooms import Rooms
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet
from seqca.ops.shared.device import checked_device
from seqca.ops.shared.dispatch import use_backend

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """How the network is trained."""

    name: str
    backend: str
    half: bool = False
    """Under autocast to bfloat16."""
    moved: bool = False
    """On images that differ by a unit in the last place."""
    cross_task: bool = True
    cross_scale: bool = True


RUNS = (
    Run("reference", "reference"),
    Run("reference, images moved", "reference", moved=True),
    Run("default", "auto"),
    Run("reference, bf16", "reference", half=True),
    Run("default, bf16", "auto", half=True),
    Run("neither exchange", "auto", cross_task=False, cross_scale=False),
    Run("exchange between tasks", "auto", cross_scale=False),
    Run("exchange between scales", "auto", cross_task=False),
)


def main() -> int:
    """The command line; 1 if a curve is wrong, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.curves", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file, written after every run")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--dry", action="store_true", help="one step on two tiny rooms, with two tasks")
    options = parser.parse_args()
    device = checked_device(None)
    steps, batch, size = (1, 2, (32, 64)) if options.dry else (options.steps, 8, (96, 128))
    tasks = ("semseg", "depth") if options.dry else ("semseg", "depth", "normals", "edge")
    rooms = Rooms("train", batch * (1 if options.dry else 40), size=size, tasks=tasks)
    loader = DataLoader(rooms, batch, num_workers=0 if options.dry else 12)
    batches = [{key: batch[key].to(device) for key in ("image", *rooms.tasks)} for batch in loader]
    results = {"environment": environment(device), "steps": steps, "batch": batch, "size": size, "runs": {}}
    first = [{key: x[:2] for key, x in batch.items()} for batch in batches[:4]]
    results["judged"] = judgement(Descent(rooms.tasks, first), draws=2 if options.dry else 12)
    write(json.dumps(results), options.output)
    for run in RUNS:
        results["runs"][run.name] = asdict(run) | trained(run, rooms.tasks, batches, steps, device)
        write(json.dumps(results), options.output)
        curve = results["runs"][run.name]["losses"]
        print(
            f"{run.name}: first {curve[0]:.4f}, last eighth {statistics.mean(curve[-max(1, steps // 8) :]):.4f}",
            flush=True,
        )
    return int(not all(curve["ok"] for curves in results["judged"].values() for curve in curves.values()))


def judgement(descent: Descent, draws: int) -> dict[str, dict[str, dict[str, object]]]:
    """Of the default backends' first steps, by dtype and result: whether it is right, the error and what is allowed."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        verdicts = Judge(descent, dtype, draws).verdicts("auto")
        found[str(dtype).removeprefix("torch.")] = {
            each.what: {"ok": each.ok, "error": each.found.relative, "allowed": each.bound.relative}
            for each in verdicts
        }
        wrong = [f"WRONG {each}" for each in verdicts if not each.ok]
        print(f"first steps, {dtype}: {len(verdicts) - len(wrong)} curves and gradients right", *wrong, sep="\n")
    return found


def trained(run: Run, tasks: dict[str, int], batches: list[Batch], steps: int, device: str) -> dict[str, object]:
    """Losses of all steps, and seconds of a step: the median of the second half's."""
    torch.manual_seed(0)
    net = SequentialCrossAttentionNet(tasks, drop_path=0.0, cross_task=run.cross_task, cross_scale=run.cross_scale).to(
        device
    )
    objective = MultiTaskLoss(tasks)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    losses, seconds = [], []
    for batch in _repeated(batches, steps, run.moved):
        start = time.perf_counter()
        half = torch.autocast(device, torch.bfloat16) if run.half else nullcontext()
        with use_backend(run.backend):
            with half:
                loss = objective(net(batch["image"]), batch).total
            loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())  # waits for the step
        seconds.append(time.perf_counter() - start)
    return {"losses": losses, "seconds": statistics.median(seconds[steps // 2 :])}


def _repeated(batches: list[Batch], steps: int, move: bool) -> Iterator[Batch]:
    for step in range(steps):
        batch = batches[step % len(batches)]
        yield batch | {"image": batch["image"].nextafter(torch.zeros_like(batch["image"]))} if move else batch


if __name__ == "__main__":
    sys.exit(main())
