"""The labels of the cases have what those of photographs have and random ones lack."""

import pytest
import torch

from benchmarks.cases.labels import ignored_rows, label, labels
from benchmarks.cases.shapes import Dataset, nyud, pascal
from seqca.tasks import get_task


def small(data: Dataset) -> Dataset:
    return data._replace(height=96, width=128)


@pytest.mark.parametrize("data", [small(nyud(2)), small(pascal(3))], ids=lambda data: data.name)
def test_every_task_has_a_valid_label_in_the_shape_of_its_loss(data: Dataset) -> None:
    found = labels(data, torch.Generator().manual_seed(0))
    assert found.keys() == data.tasks.keys()
    for task, target in found.items():
        kind, ignore = get_task(task).loss.kind, get_task(task).loss.ignore
        channels = () if kind == "cross_entropy" else (data.tasks[task],)
        assert target.shape == (data.batch, *channels, data.height, data.width)
        valid = target[..., : -ignored_rows(data), :]
        if ignore is not None:
            assert (target[..., -ignored_rows(data) :, :] == ignore).all()
            assert (valid != ignore).all()
        if kind == "cross_entropy":
            assert 0 <= valid.min() < valid.max() < data.tasks[task]


def test_neighbours_are_of_one_class_and_edges_are_rare_and_depth_is_in_metres() -> None:
    found = labels(small(nyud(4)), torch.Generator().manual_seed(0))
    valid = {task: target[..., : -ignored_rows(small(nyud(4))), :] for task, target in found.items()}
    assert (valid["semseg"][..., 1:] == valid["semseg"][..., :-1]).float().mean() > 0.9
    assert 0.01 < valid["edge"].mean() < 0.2
    assert 0.5 < valid["depth"].min() < valid["depth"].max() < 20
    torch.testing.assert_close(valid["normals"].norm(dim=1), torch.ones(valid["depth"][:, 0].shape))


def test_another_seed_draws_other_rooms_and_the_same_one_the_same() -> None:
    data = small(nyud(8))
    first, again, other = (label("depth", 1, data, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
