"""Training learns the same whichever backend computes the operators."""

import pytest
import torch
from torch import Tensor

import seqca
from seqca.data.rooms import Rooms
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet

STEPS = 3


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return Rooms("train", 2 * STEPS, size=(32, 64))


@pytest.fixture(scope="module")
def batches(rooms: Rooms) -> list[dict[str, Tensor]]:
    """Two rooms each, with every label, in double precision, where rounding cannot hide a difference."""
    pairs = [(rooms[2 * step], rooms[2 * step + 1]) for step in range(STEPS)]
    stacked = [{key: torch.stack([one[key], other[key]]) for key in ("image", *rooms.tasks)} for one, other in pairs]
    return [{key: x.double() if x.is_floating_point() else x for key, x in batch.items()} for batch in stacked]


def losses_of_training(
    backend: str, rooms: Rooms, batches: list[dict[str, Tensor]], dtype: torch.dtype = torch.float64
) -> list[dict[str, float]]:
    """Every part of the objective at every step."""
    torch.manual_seed(0)
    net = SequentialCrossAttentionNet(rooms.tasks, drop_path=0.0).to(dtype)
    criterion = MultiTaskLoss(rooms.tasks)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    curve = []
    with seqca.use_backend(backend):
        for double in batches:
            batch = {key: x.to(dtype) if x.is_floating_point() else x for key, x in double.items()}
            loss = criterion(net(batch["image"]), batch)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            curve.append({name: part.item() for name, part in loss.parts.items()})
    return curve


def test_training_on_rooms_gives_the_same_curve_on_reference_and_aten(
    rooms: Rooms, batches: list[dict[str, Tensor]]
) -> None:
    reference = losses_of_training("reference", rooms, batches)
    aten = losses_of_training("aten", rooms, batches)
    assert {"semseg", "depth", "normals", "edge", "edge/deep3"} <= set(reference[0])
    for step, (expected, found) in enumerate(zip(reference, aten, strict=True)):
        # Rounding starts at 1e-16 and grows with every step, in batch norms over the few pixels of the coarsest maps.
        assert found == pytest.approx(expected, rel=1e-12 * 1e3**step), step
    for task in rooms.tasks:
        assert reference[-1][task] < 0.98 * reference[0][task], task  # something was learnt


def test_training_in_single_precision_departs_from_the_exact_curve_no_further_than_the_reference(
    rooms: Rooms, batches: list[dict[str, Tensor]]
) -> None:
    # Two steps: rounding grows a thousandfold with each, so that a third compares noise with noise.
    exact = losses_of_training("reference", rooms, batches[:2])
    curves = [losses_of_training(backend, rooms, batches[:2], torch.float32) for backend in ("reference", "aten")]
    for step, true in enumerate(exact):
        of_reference, of_aten = (max(abs(curve[step][part] / true[part] - 1) for part in true) for curve in curves)
        assert 0 < of_aten <= 2 * of_reference, step
