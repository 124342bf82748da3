"""Training learns the same whichever backend computes the operators."""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import seqca
from benchmarks.harness.judging import relative_error
from seqca.data.rooms import Rooms
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet
from seqca.ops.verification.draws import Allowance, Draw, Results, allowances, moved, verdict

STEPS = 4
Batch = dict[str, Tensor]


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return Rooms("train", 2 * STEPS, size=(32, 64))


@pytest.fixture(scope="module")
def batches(rooms: Rooms) -> list[Batch]:
    """Two rooms each, with every label."""
    pairs = [(rooms[2 * step], rooms[2 * step + 1]) for step in range(STEPS)]
    return [{key: torch.stack([one[key], other[key]]) for key in ("image", *rooms.tasks)} for one, other in pairs]


def new_network(rooms: Rooms) -> SequentialCrossAttentionNet:
    """In double precision, where rounding cannot hide a difference; the same every time."""
    torch.manual_seed(0)
    return SequentialCrossAttentionNet(rooms.tasks, drop_path=0.0).double()


DRAWS = (8,)
"""Of the reference's error; each is a step in single and one in double precision."""


class Step(NamedTuple):
    """One step of training."""

    losses: dict[str, float]
    """Every part of the objective."""
    gradient: Tensor
    """Of all parameters."""
    update: Tensor
    """Of all parameters."""

    def results(self) -> Results:
        """Losses and gradient by name."""
        return {name: torch.tensor(x, dtype=self.gradient.dtype) for name, x in self.losses.items()} | {
            "gradient": self.gradient
        }


def step(net: SequentialCrossAttentionNet, rooms: Rooms, batch: Batch, backend: str) -> Step:
    """A step of plain gradient descent, in the dtype of the network, which it changes."""
    dtype = next(net.parameters()).dtype
    batch = {key: x.to(dtype) if x.is_floating_point() else x for key, x in batch.items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    before = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    with seqca.use_backend(backend):
        loss = MultiTaskLoss(rooms.tasks)(net(batch["image"]), batch)
        loss.total.backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters()])
    optimizer.step()
    optimizer.zero_grad()
    after = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    return Step({name: part.item() for name, part in loss.parts.items()}, gradient, after - before)


def test_training_on_rooms_gives_the_same_curve_on_reference_and_aten(rooms: Rooms, batches: list[Batch]) -> None:
    net = new_network(rooms)
    curve = []
    for batch in batches:
        # From one state, since rounding grows a thousandfold with every step, in batch norms over few pixels: two
        # curves that agree in every step from every state that they pass through are one.
        other = copy.deepcopy(net)
        expected, found = step(net, rooms, batch, "reference"), step(other, rooms, batch, "aten")
        assert found.losses == pytest.approx(expected.losses, rel=1e-12)
        assert (found.update - expected.update).norm() <= 1e-9 * expected.update.norm()
        for (name, one), another in zip(net.named_buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(another, one, rtol=1e-10, atol=1e-14, msg=name)
        curve.append(expected.losses)
    assert {"semseg", "depth", "normals", "edge", "edge/deep3"} <= set(curve[0])
    for task in rooms.tasks:
        assert curve[-1][task] < 0.98 * curve[0][task], task  # something was learnt


@pytest.fixture(scope="module")
def allowance(rooms: Rooms, batches: list[Batch]) -> dict[str, Allowance]:
    """What the errors of the reference allow in the first step in single precision."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Draw:
        batch = {**batches[0], "image": moved(batches[0]["image"], generator)}
        single = new_network(rooms).float()
        double = copy.deepcopy(single).double()
        return Draw(*(step(net, rooms, batch, "reference").results() for net in (single, double)))

    return allowances(draw, relative_error, DRAWS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_step_errs_as_the_reference_does(
    rooms: Rooms, batches: list[Batch], allowance: dict[str, Allowance], dtype: torch.dtype
) -> None:
    net = new_network(rooms).float()  # the weights have values that both precisions hold
    exact = step(copy.deepcopy(net).double(), rooms, batches[0], "reference").results()
    for what, result in step(net.to(dtype), rooms, batches[0], "aten").results().items():
        judged = verdict(what, result, exact[what], allowance[what], relative_error)
        assert judged.ok, str(judged)
