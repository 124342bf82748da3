"""Training learns the same whichever backend computes the operators."""

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import seqca
from benchmarks.cases.network import by_kinds_of_layers, clear_of_kinks
from seqca.data.rooms import Rooms
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet
from seqca.ops.verification.draws import (
    Allowance,
    Results,
    allowances,
    as_drawn,
    drawn_from,
    exact_results,
    verdicts,
)
from seqca.ops.verification.tolerance import Verdict
from seqca.training.step import Objective, compiled
from tests.planted import drop_gradient

STEPS = 4

Batch = dict[str, Tensor]


def rooms_of(tasks: Sequence[str], batches: int) -> tuple[dict[str, int], list[Batch]]:
    """Tasks by their numbers of channels, and two rooms at a time, with every label."""
    rooms = Rooms("train", 2 * batches, size=(32, 64), tasks=tasks)
    pairs = [(rooms[2 * i], rooms[2 * i + 1]) for i in range(batches)]
    return rooms.tasks, [{key: torch.stack([x[key] for x in pair]) for key in ("image", *tasks)} for pair in pairs]


def network_of(tasks: dict[str, int]) -> SequentialCrossAttentionNet:
    torch.manual_seed(0)
    return clear_of_kinks(SequentialCrossAttentionNet(tasks, drop_path=0.0))


def as_it_stands(objective: Objective) -> Objective:
    return objective


def step(
    net: SequentialCrossAttentionNet,
    tasks: dict[str, int],
    batch: Batch,
    backend: str,
    run: Callable[[Objective], Objective] = as_it_stands,
) -> Results:
    """Losses, gradients, which stay in the parameters, and statistics, which are set back; in the images' dtype."""
    dtype, before = batch["image"].dtype, {name: x.clone() for name, x in net.named_buffers()}
    labels = {key: x.to(dtype) if x.is_floating_point() else x for key, x in batch.items()}
    criterion = MultiTaskLoss(tasks)
    net.zero_grad()
    with seqca.use_backend(backend):
        loss = run(lambda images, targets: criterion(net(images), targets))(batch["image"], labels)
        loss.total.backward()
    results = {name: part.detach() for name, part in loss.parts.items()}
    results |= by_kinds_of_layers({name: p.grad for name, p in net.named_parameters()}, tasks)
    results |= {name: x.clone() for name, x in net.named_buffers() if x.is_floating_point()}
    net.load_state_dict(before, strict=False)
    return results


def test_some_steps_on_the_reference_lessen_every_loss() -> None:
    tasks, batches = rooms_of(("semseg", "depth", "normals", "edge"), STEPS)
    net, curve = network_of(tasks), []
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    for batch in [*batches, batches[0]]:  # the first again: rooms differ
        curve.append(step(net, tasks, batch, "reference"))
        optimizer.step()
    assert {"semseg", "depth", "normals", "edge", "edge/deep3"} <= curve[0].keys()
    for task in tasks:
        assert curve[-1][task] < 0.98 * curve[0][task], task


class Step:
    """A step of a network as a function of the images, in their dtype; of two tasks, for the sake of time.

    Args:
        trained: after how many others, on the reference.
    """

    def __init__(self, trained: int) -> None:
        self.tasks, (self.batch, *others) = rooms_of(("semseg", "depth"), 1 + trained)
        net = network_of(self.tasks)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
        for batch in others:
            step(net, self.tasks, batch, "reference")
            optimizer.step()
        self.networks = {torch.float32: net, torch.float64: copy.deepcopy(net).double()}

    def __call__(
        self,
        inputs: Sequence[Tensor],
        backend: str = "reference",
        run: Callable[[Objective], Objective] = as_it_stands,
    ) -> Results:
        (images,) = inputs
        return step(self.networks[images.dtype], self.tasks, {**self.batch, "image": images}, backend, run)


class Distance(NamedTuple):
    """The error of a tensor as one vector."""

    euclidean: Tensor


def distance(actual: Tensor, exact: Tensor) -> Distance:
    """In the Euclidean norm."""
    return Distance((actual.double() - exact.double()).norm())


class Judge(NamedTuple):
    """A step, and what the reference says of it."""

    step: Step
    exact: Results
    allowance: dict[str, Allowance]

    def verdicts(self, dtype: torch.dtype, run: Callable[[Objective], Objective] = as_it_stands) -> list[Verdict]:
        """On the step, computed by the backend."""
        found = self.step([self.step.batch["image"].to(dtype)], "aten", run)
        return verdicts(found, self.exact, self.allowance, distance)


@cache
def judge_after(trained: int) -> Judge:
    """A step, after how many others, and its judge."""
    step = Step(trained)
    images = [step.batch["image"]]
    return Judge(step, exact_results(step, images), allowances(drawn_from(step, as_drawn(images)), distance))


@pytest.mark.parametrize(
    "trained", [pytest.param(0, marks=pytest.mark.processor, id="the first"), pytest.param(STEPS, id="a later")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_step_errs_as_the_reference_does(dtype: torch.dtype, trained: int) -> None:
    """Curves that agree in a step from wherever they are stay together."""
    for judged in judge_after(trained).verdicts(dtype):
        assert judged.ok, str(judged)


def test_network_and_losses_are_one_compiled_graph_that_errs_as_the_reference_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    for judged in judge_after(0).verdicts(torch.float32, lambda objective: compiled(objective, True)):
        assert judged.ok, str(judged)


@pytest.mark.parametrize("of", ["queries", "keys", "values"])
def test_a_step_without_the_gradient_of_a_layer_is_seen(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a thousandth of what passes through the network."""
    drop_gradient(of, monkeypatch)
    assert not all(judged.ok for judged in judge_after(0).verdicts(torch.float32))
