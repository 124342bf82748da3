"""The metrics of several tasks together, in one process and in two."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from seqca.metrics import MultiTaskMetric
from seqca.tasks import get_task
from tests.metrics.examples import CHANNELS, labels_and_predictions


def part(maps: dict[str, Tensor], images: slice) -> dict[str, Tensor]:
    return {name: tensor[images] for name, tensor in maps.items()}


def test_each_task_keeps_the_scores_of_its_own_metric() -> None:
    labels, predictions = labels_and_predictions(4)
    together = MultiTaskMetric(CHANNELS)
    together.update(predictions, labels | {"name": ["a", "b", "c", "d"]})
    expected = {}
    for name, channels in CHANNELS.items():
        metric = get_task(name).build_metric(channels)
        metric.update(predictions[name], labels[name])
        expected |= {f"{name}/{score}": value for score, value in metric.compute().items()}
        assert f"{name}/{get_task(name).score.name}" in expected
    scores = together.compute()
    assert list(scores) == list(expected)
    assert all(torch.equal(scores[name], expected[name]) for name in expected)


def test_reset_forgets_everything() -> None:
    labels, predictions = labels_and_predictions(4)
    metric = MultiTaskMetric(CHANNELS)
    metric.update(predictions, labels)
    first = metric.compute()
    metric.reset()
    metric.update(predictions, labels)
    assert metric.compute() == first


def test_missing_maps_and_faults_are_reported_with_the_task() -> None:
    labels, predictions = labels_and_predictions(2)
    metric = MultiTaskMetric({"depth": 1, "edge": 1})
    with pytest.raises(ValueError, match="predictions: got depth, expected edge as well"):
        metric.update({"depth": predictions["depth"]}, labels)
    with pytest.raises(ValueError, match="targets: got edge, expected depth as well"):
        metric.update(predictions, {"edge": labels["edge"]})
    with pytest.raises(ValueError, match=r"^edge: prediction: got .*, expected probabilities"):
        metric.update(predictions | {"edge": predictions["edge"] * 2}, labels)


def test_a_number_of_channels_that_is_not_the_task_s_is_refused() -> None:
    with pytest.raises(ValueError, match="channels: got 2, expected 3 for task 'normals'"):
        MultiTaskMetric({"normals": 2})


def _score_a_share(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    labels, predictions = labels_and_predictions(6)
    metric = MultiTaskMetric(CHANNELS)
    for images in (slice(0, 1), slice(1, 4)) if rank == 0 else (slice(4, 6),):
        metric.update(part(predictions, images), part(labels, images))
    torch.save(metric.compute(), Path(folder) / f"scores{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_with_unequal_shares_agree_with_one(tmp_path: Path) -> None:
    mp.spawn(_score_a_share, args=(str(tmp_path),), nprocs=2)
    labels, predictions = labels_and_predictions(6)
    metric = MultiTaskMetric(CHANNELS)
    metric.update(predictions, labels)
    expected = metric.compute()
    for rank in range(2):
        scores = torch.load(tmp_path / f"scores{rank}.pt")
        assert list(scores) == list(expected)
        for name, value in expected.items():
            assert scores[name].item() == pytest.approx(value.item(), rel=1e-12), name
