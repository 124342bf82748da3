"""Training as the recipes for NYUD-v2 have it, from files to the optimiser: images a second, the largest batch, hours.

The files are an archive as published, but of rendered rooms, read and augmented by the recipe's loader. The recipe
with two tasks, as in the paper, is `configs/nyud.yaml`; that with four is `configs/nyud_four_tasks.yaml`. The hours are
those of training alone, without validation.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from benchmarks.cases.labels import labels
from benchmarks.cases.published.network import PublishedNetwork
from benchmarks.cases.published.objective import published_objective
from benchmarks.cases.shapes import Dataset
from benchmarks.harness.environment import environment
from benchmarks.harness.results import write
from seqca.configuration import IMAGE, NYUD_TASKS
from seqca.data.nyud import FOLDERS, SUFFIXES
from seqca.data.rooms import Rooms
from seqca.losses import LossOutput, MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet
from seqca.ops.shared.device import checked_device
from seqca.protocols import MTINET
from seqca.training.archives import NYUDv2DataModule
from seqca.training.step import CapturedStep, Objective

Batch = Mapping[str, Tensor]

IMAGES = 795
"""Of the training split."""
ROOMS = 16
"""Different ones among them."""
EPOCHS = MTINET.schedule.length
WARM_UPS = 4
"""Steps that do not count; the first compiles, allocates and captures."""
MOST = 512
"""The largest batch that is tried."""


@dataclass(frozen=True)
class Run:
    """Who trains, and how."""

    name: str
    published: bool = False
    captured: bool = False
    """As a CUDA graph, but for the optimiser."""


RUNS = (Run("published", published=True), Run("default"), Run("default, graph", captured=True))
RECIPES = {("semseg", "depth"): 10, ("semseg", "depth", "normals", "edge"): 8}
"""Batch sizes by tasks."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.recipe", description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON file, written after every run; the archive beside"
    )
    parser.add_argument("--steps", type=int, default=30, help="that are timed")
    parser.add_argument("--workers", type=int, default=4, help="processes that load, as in the recipes")
    parser.add_argument("--dry", action="store_true", help="a step on tiny rooms")
    options = parser.parse_args()
    device = checked_device(None)
    size, steps, workers, most = IMAGE, options.steps, options.workers, MOST
    wanted = [(dtype, *recipe) for dtype in ("bf16", "fp32") for recipe in RECIPES.items()]
    if options.dry:
        size, steps, workers, most = (32, 64), 1, 0, 2
        wanted = wanted[:1]
    archive = options.output.parent / "rooms-archive"
    write_archive(archive, size, 2 if options.dry else ROOMS)
    results: dict[str, Any] = {"environment": environment(device), "size": size, "steps": steps, "runs": []}
    for dtype, tasks, batch in wanted:
        batch = min(batch, most)
        data = Dataset("nyud", batch, *size, {task: NYUD_TASKS[task] for task in tasks})
        module = NYUDv2DataModule(str(archive), tasks, size=size, batch_size=batch, num_workers=workers)
        for run in RUNS:
            if run.captured and device == "cpu":
                continue
            entry = measured(run, data, module.train_dataloader(), steps, device, dtype == "bf16", most)
            results["runs"].append({"name": run.name, "dtype": dtype, "tasks": len(tasks), "batch": batch, **entry})
            write(json.dumps(results, indent=1), options.output)
            print(json.dumps(results["runs"][-1]), flush=True)


def write_archive(root: Path, size: tuple[int, int], different: int) -> None:
    """NYUD_MT (docs/data.md) with rendered rooms in place of photographs, as many names, of some in turn."""
    rooms = Rooms("train", different, size)
    names = [f"room{i:02d}" for i in range(different)]
    for folder in ("gt_sets", *FOLDERS.values()):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        room = rooms.rendering(i)
        paths = {key: root / FOLDERS[key] / f"{name}{suffix}" for key, suffix in SUFFIXES["mtinet"].items()}
        Image.fromarray(room.image).save(paths["image"], quality=95)
        Image.fromarray((room.semseg + 1).astype(np.uint8)).save(paths["semseg"])  # 0 is void
        for key, array in {"depth": room.depth, "normals": room.normals.transpose(1, 2, 0), "edge": room.edge}.items():
            np.save(paths[key], array)
    for split in ("train", "val"):
        listed = [names[i % different] for i in range(IMAGES)]
        (root / "gt_sets" / f"{split}.txt").write_text("\n".join(listed) + "\n")


class Step:
    """A training step: loss, gradients, optimiser.

    Args:
        run: who trains.
        tasks: {name: output channels}.
        device: device type.
        half: under autocast to bfloat16.
    """

    def __init__(self, run: Run, tasks: dict[str, int], device: str, half: bool) -> None:
        net: PublishedNetwork | SequentialCrossAttentionNet
        net = PublishedNetwork(tasks) if run.published else SequentialCrossAttentionNet(tasks)
        net = net.to(device).train()
        criterion = MultiTaskLoss(tasks)

        def objective(images: Tensor, targets: Mapping[str, Tensor]) -> LossOutput:
            output = net(images)
            return LossOutput(published_objective(output, targets), {}) if run.published else criterion(output, targets)

        schedule = MTINET.schedule
        self._optimizer = torch.optim.Adam(net.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
        self._tasks, self._device, self._half = tasks, device, half
        self._objective: Objective = CapturedStep(objective, net) if run.captured else objective

    def __call__(self, batch: Batch) -> None:
        """One step on a batch, wherever it is."""
        moved = {name: batch[name].to(self._device, non_blocking=True) for name in ("image", *self._tasks)}
        images = moved.pop("image")
        with torch.autocast(self._device, torch.bfloat16) if self._half else nullcontext():
            losses = self._objective(images, moved)
        if isinstance(self._objective, CapturedStep):
            self._objective.set_gradients()
        else:
            losses.total.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


def measured(
    run: Run, data: Dataset, loader: Iterable[Batch], steps: int, device: str, half: bool, most: int
) -> dict[str, float | int]:
    """What a run takes: time with the loader and on one batch that is there already, memory, the largest batch."""
    step = Step(run, data.tasks, device, half)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    alone = seconds(step, repeat(drawn(data, device)), steps, device)
    entry: dict[str, float | int] = {"images_per_second_without_loader": data.batch / alone}
    if device == "cuda":
        entry["reserved_bytes"] = torch.cuda.max_memory_reserved()
    with_loader = seconds(step, chain.from_iterable(repeat(loader)), steps, device)
    entry |= {"images_per_second": data.batch / with_loader, "hours": hours(with_loader, data.batch)}
    del step
    return {**entry, "largest_batch": largest(lambda batch: fits(run, data, batch, device, half), most)}


def drawn(data: Dataset, device: str) -> Batch:
    """A batch of random images, and labels of rooms."""
    generator = Generator(device).manual_seed(0)
    images = torch.randn(data.batch, 3, data.height, data.width, generator=generator, device=device)
    return {"image": images, **labels(data, generator)}


def seconds(step: Callable[[Batch], None], batches: Iterator[Batch], steps: int, device: str) -> float:
    """Of a step, the mean of some one after the other, as in training: the host does not wait for each."""

    def work(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            step(next(batches))
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    work(WARM_UPS)
    return work(steps) / steps


def hours(step: float, batch: int) -> float:
    """Of the recipe's epochs, from the seconds of a step; an uneven rest of an epoch is left out."""
    return EPOCHS * (IMAGES // batch) * step / 3600


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, as all below it do; 0 where one does not."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fits(run: Run, data: Dataset, batch: int, device: str, half: bool) -> bool:
    """Whether two steps, the second with the optimiser's state, find the memory that they need."""
    try:
        step, one = Step(run, data.tasks, device, half), drawn(data._replace(batch=batch), device)
        for _ in range(2):
            step(one)
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        step = one = None  # type: ignore[assignment]
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
