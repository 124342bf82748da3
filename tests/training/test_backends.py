"""Training learns the same whichever backend computes the operators."""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import seqca
from benchmarks.cases.network import by_kinds_of_layers, clear_of_kinks
from seqca.data.rooms import Rooms
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet
from seqca.ops.verification.draws import Allowance, Draw, Results, allowances, as_drawn, moved, verdict
from seqca.ops.verification.tolerance import Verdict
from tests.planted import drop_gradient_of_queries

STEPS = 4
DRAWS = 4
"""Of the reference's error; each is a step in single and one in double precision, and takes seconds."""

Batch = dict[str, Tensor]


def step(net: SequentialCrossAttentionNet, tasks: dict[str, int], batch: Batch, backend: str) -> Results:
    """Losses, gradients and statistics of a step of gradient descent in the dtype of the network, which it changes."""
    dtype = next(net.parameters()).dtype
    batch = {key: x.to(dtype) if x.is_floating_point() else x for key, x in batch.items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    with seqca.use_backend(backend):
        loss = MultiTaskLoss(tasks)(net(batch["image"]), batch)
        loss.total.backward()
    results = {name: part.detach() for name, part in loss.parts.items()}
    results |= by_kinds_of_layers({name: p.grad for name, p in net.named_parameters()}, tasks)
    optimizer.step()
    optimizer.zero_grad()
    return results | {name: x.clone() for name, x in net.named_buffers() if x.is_floating_point()}


class Training(NamedTuple):
    """What some steps on the reference in single precision come to."""

    tasks: dict[str, int]
    curve: list[Results]
    """Of every step."""
    network: SequentialCrossAttentionNet
    """Before the last step."""
    batch: Batch
    """Of the last step."""
    exact: Results
    """Of the last step, in double precision."""


class Distance(NamedTuple):
    """The error of a tensor as one vector."""

    euclidean: Tensor


def distance(actual: Tensor, exact: Tensor) -> Distance:
    """In the Euclidean norm."""
    return Distance((actual.double() - exact.double()).norm())


@pytest.fixture(scope="module")
def training() -> Training:
    """On two rooms at a time, with every label."""
    rooms = Rooms("train", 2 * STEPS, size=(32, 64))
    pairs = [(rooms[2 * i], rooms[2 * i + 1]) for i in range(STEPS)]
    batches = [{key: torch.stack([one[key], other[key]]) for key in ("image", *rooms.tasks)} for one, other in pairs]
    torch.manual_seed(0)
    net, curve = clear_of_kinks(SequentialCrossAttentionNet(rooms.tasks, drop_path=0.0)), []
    for batch in batches:
        before = copy.deepcopy(net)
        curve.append(step(net, rooms.tasks, batch, "reference"))
    exact = step(copy.deepcopy(before).double(), rooms.tasks, batches[-1], "reference")
    return Training(rooms.tasks, curve, before, batches[-1], exact)


def verdicts(training: Training, allowance: dict[str, Allowance], dtype: torch.dtype) -> list[Verdict]:
    """On the last step, computed by the backend."""
    found = step(copy.deepcopy(training.network).to(dtype), training.tasks, training.batch, "aten")
    assert found.keys() == training.exact.keys()
    return [verdict(what, x, training.exact[what], allowance[what], distance) for what, x in found.items()]


@pytest.fixture(scope="module")
def allowance(training: Training) -> dict[str, Allowance]:
    """What the errors of the reference allow in the last step."""
    (image,) = as_drawn([training.batch["image"]])
    generator = torch.Generator().manual_seed(0)

    def draw() -> Draw:
        batch = {**training.batch, "image": moved(image, generator)}
        single = copy.deepcopy(training.network)
        return Draw(
            *(
                step(net, training.tasks, batch, "reference")
                for net in (single, copy.deepcopy(training.network).double())
            )
        )

    return allowances(draw, distance, DRAWS)


def test_some_steps_on_the_reference_lessen_every_loss(training: Training) -> None:
    assert {"semseg", "depth", "normals", "edge", "edge/deep3"} <= training.curve[0].keys()
    for task in training.tasks:
        assert training.curve[-1][task] < 0.98 * training.curve[0][task], task


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_step_errs_as_the_reference_does(
    training: Training, allowance: dict[str, Allowance], dtype: torch.dtype
) -> None:
    """Curves that agree in a step from every state are one."""
    for judged in verdicts(training, allowance, dtype):
        assert judged.ok, str(judged)


def test_a_step_without_the_gradient_of_queries_is_seen(
    training: Training, allowance: dict[str, Allowance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a thousandth of what passes through the network."""
    drop_gradient_of_queries(monkeypatch)
    assert not all(judged.ok for judged in verdicts(training, allowance, torch.float32))
