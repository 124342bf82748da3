"""What acceleration changes in a training: nothing in its losses, and how much in memory and time."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from seqca import accelerate
from seqca.ops.verification.draws import Draw, Results, allowances, moved, plain_torch
from seqca.ops.verification.tolerance import errors

from ..harness.execution import TimedCall
from ..harness.judging import Check, judge
from ..harness.noise import Timing
from ..harness.quantities import kept_bytes
from ..harness.timing import clock_for, time_interleaved
from .results import ORIGINAL, OUTPUTS
from .training import Batch, Training


class Costs(NamedTuple):
    """Of a training step without its optimiser."""

    kept: int
    """Bytes kept for backward."""
    time: Timing | None
    """None where no time was to be spent on it."""


def accelerated(training: Training, outputs: str) -> Training:
    """A copy, accelerated."""
    copy = training.copy()
    accelerate(copy.model, copy.criterion, outputs=outputs)
    return copy


def parity(training: Training, steps: int, draws: int) -> dict[str, Check]:
    """The losses of accelerated trainings, by `OUTPUTS`, step by step, by the tolerance rule.

    The reference is the training as it is, exact in float64. What it errs in float32 is drawn by moving the images.

    Args:
        training: whose start all runs share.
        steps: of the optimiser, on a new batch each.
        draws: of the reference's error, an even number.
    """
    seeds = count()

    def batches(dtype: torch.dtype, seed: int | None = None) -> Iterator[Batch]:
        contents = Generator().manual_seed(0)
        moves = None if seed is None else Generator().manual_seed(seed)
        for _ in range(steps):
            images, labels = training.batch(contents)
            near = images if moves is None else moved(images, moves)
            yield near.to(dtype), {task: label.to(dtype) for task, label in labels.items()}

    def losses(dtype: torch.dtype, seed: int | None = None) -> Results:
        return training.copy(dtype).losses(batches(dtype, seed))

    def draw() -> Draw:
        seed = next(seeds)
        return Draw(losses(torch.float32, seed), losses(torch.float64, seed))

    with plain_torch():
        exact, allowance = losses(torch.float64), allowances(draw, errors, draws)
        found = {outputs: accelerated(training, outputs).losses(batches(torch.float32)) for outputs in OUTPUTS}
    return {outputs: judge(results, exact, allowance, errors) for outputs, results in found.items()}


def costs(training: Training, seconds: float) -> dict[str, Costs]:
    """Of the training as it is, by `ORIGINAL`, and accelerated, by `OUTPUTS`, timed in turn.

    Args:
        training: on the device whose clock counts.
        seconds: spent on each where steps are short enough; 0 for kept bytes alone.
    """
    trainings = {ORIGINAL: training.copy(), **{outputs: accelerated(training, outputs) for outputs in OUTPUTS}}
    images, labels = training.batch(Generator().manual_seed(0))
    kept: dict[str, int] = {}
    calls: dict[str, list[TimedCall]] = {}
    for name, one in trainings.items():
        one.model.train()
        left_out = [*one.model.parameters(), *one.model.buffers(), images, *labels.values()]
        kept[name] = kept_bytes(partial(one.loss, images, labels), left_out)
        calls[name] = [TimedCall(lambda: None, partial(_step, one, images, labels))]
    clock = clock_for(images.device.type)
    times = time_interleaved(calls, lambda _: nullcontext(), clock, seconds) if seconds else {}
    return {name: Costs(kept[name], times.get(name)) for name in trainings}


def _step(training: Training, images: Tensor, labels: dict[str, Tensor], _: None) -> None:
    torch.autograd.grad(training.loss(images, labels), training.parameters(), allow_unused=True)
