"""Training learns the same whichever backend computes the operators."""

import pytest
import torch

import seqca
from seqca.data.rooms import Rooms
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet


def losses_of_training(backend: str, steps: int = 4) -> list[float]:
    """The loss of every step of training on rooms, in double precision, where rounding cannot hide a difference."""
    torch.manual_seed(0)
    rooms = Rooms("train", 2 * steps, size=(32, 64), tasks=("depth", "normals"))
    net = SequentialCrossAttentionNet(rooms.tasks, drop_path=0.0).double()
    criterion = MultiTaskLoss(rooms.tasks)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    curve = []
    with seqca.use_backend(backend):
        for step in range(steps):
            samples = [rooms[2 * step], rooms[2 * step + 1]]
            batch = {key: torch.stack([s[key] for s in samples]).double() for key in ("image", *rooms.tasks)}
            loss = criterion(net(batch["image"]), batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    return curve


def test_training_on_rooms_gives_the_same_curve_on_reference_and_aten():
    reference = losses_of_training("reference")
    # Rounding starts at 1e-16 and grows with every step, in batch norms over the few pixels of the coarsest maps.
    assert losses_of_training("aten") == pytest.approx(reference, rel=1e-6)
    assert reference[0] != pytest.approx(reference[-1], rel=1e-3)  # something was learnt
