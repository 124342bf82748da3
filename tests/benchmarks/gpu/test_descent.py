"""The first steps of training are judged: a right backend passes, and a gradient that lacks a term fails."""

import pytest
import torch

from benchmarks.gpu.descent import Descent, Judge
from seqca.data.rooms import Rooms
from tests.planted import drop_gradient


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Of two steps, on two rooms each."""
    rooms = Rooms("train", 4, size=(32, 64), tasks=("semseg", "depth"))
    items = [rooms[i] for i in range(4)]
    keys = ("image", *rooms.tasks)
    batches = [{key: torch.stack([x[key] for x in pair]) for key in keys} for pair in (items[:2], items[2:])]
    return Judge(Descent(rooms.tasks, batches), torch.float32, draws=2)


def test_the_losses_of_every_step_and_the_gradients_of_the_last_are_judged(judge: Judge) -> None:
    verdicts = {each.what: each for each in judge.verdicts("aten")}
    assert {"losses of semseg", "losses of depth"} < verdicts.keys() and len(verdicts) > 20
    for each in verdicts.values():
        assert each.ok, str(each)


def test_steps_without_the_gradient_of_queries_are_seen(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_gradient("queries", monkeypatch)
    assert not all(each.ok for each in judge.verdicts("aten"))
