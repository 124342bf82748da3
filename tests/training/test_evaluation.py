"""What is scored under each protocol: at which size, and after which files."""

import pytest
import torch

from seqca.training.module import MultiTaskModule


def scored(module: MultiTaskModule, predictions: dict, batch: dict, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """(predictions, labels) of every update of the metric in a step of the test."""
    updates: list[tuple] = []
    monkeypatch.setattr(module.network, "predict", lambda images: predictions)
    monkeypatch.setattr(module.test_metric, "update", lambda *both: updates.append(both))
    module.test_step({"image": torch.zeros(len(predictions["edge"]), 3, 32, 32), **batch}, 0)
    return updates


def test_under_mtinet_every_image_is_scored_at_its_own_size_and_from_eight_bits(monkeypatch):
    module = MultiTaskModule({"human_parts": 7, "edge": 1, "normals": 3, "depth": 1})
    predictions = {
        "human_parts": torch.tensor([[[1, 2]], [[3, 4]], [[5, 6]]]),
        "edge": torch.tensor([0.0, 1.0]).expand(3, 1, 1, 2),
        "normals": torch.tensor([-1.0, 1.0]).expand(3, 3, 1, 2),
        "depth": torch.tensor([1.0, 3.0]).expand(3, 1, 1, 2),
    }

    def labels(width: int) -> dict:
        shapes = {"human_parts": (1, width), "normals": (3, 1, width)}
        return {task: torch.full(shapes.get(task, (1, 1, width)), 7.0) for task in predictions}

    batch = {"original": [labels(4), labels(9), labels(2)], "counted": torch.tensor([True, False, True])}
    (large, large_labels), (small, _) = scored(module, predictions, batch, monkeypatch)
    assert large["human_parts"].tolist() == [[[1, 1, 2, 2]]] and small["human_parts"].tolist() == [[[5, 6]]]
    # Bilinearly 0, 1/4, 3/4, 1 of the way; 255/4 = 63.75 and 3 · 255/4 = 191.25 are rounded down.
    assert (large["edge"] * 255).flatten().tolist() == pytest.approx([0, 63, 191, 255])
    assert ((large["normals"][:, 0] + 1) * 127.5).flatten().tolist() == pytest.approx([0, 63, 191, 255], abs=1e-4)
    assert large["depth"].flatten().tolist() == [1, 1.5, 2.5, 3]
    assert all(torch.equal(large_labels[task][0], labels(4)[task]) for task in predictions)


def test_under_invpt_edges_alone_go_through_eight_bits(monkeypatch):
    module = MultiTaskModule({"edge": 1, "sal": 2, "normals": 3}, protocol="invpt")
    predictions = {
        "edge": torch.full((2, 1, 2, 2), 0.5),
        "sal": torch.full((2, 1, 2, 2), 0.5),
        "normals": torch.full((2, 3, 2, 2), 0.577),
    }
    batch = {**predictions, "counted": torch.tensor([True, False])}
    ((found, labels),) = scored(module, predictions, batch, monkeypatch)
    assert len(found["edge"]) == len(labels["edge"]) == 1, "one sample is not counted"
    assert (found["edge"] * 255).unique().tolist() == [127]
    assert all(torch.equal(found[task], predictions[task][:1]) for task in ("sal", "normals"))


def test_rooms_have_no_files(monkeypatch):
    module = MultiTaskModule({"edge": 1})
    predictions = {"edge": torch.full((1, 1, 2, 2), 0.5)}
    ((found, _),) = scored(module, predictions, {**predictions, "counted": torch.tensor([True])}, monkeypatch)
    assert torch.equal(found["edge"], predictions["edge"])
