"""The best constant predictions cannot be beaten by other constants."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqca.metrics import best_constant
from seqca.metrics.sphere import DirectionHistogram
from seqca.tasks import get_task
from tests.metrics.examples import CHANNELS, labels_and_predictions


def other_constants(task: str) -> list[Tensor]:
    """A grid over what a constant prediction of the task can be."""
    if task in ("semseg", "human_parts"):
        return list(torch.arange(CHANNELS[task]))
    if task == "depth":
        return [torch.tensor([depth]) for depth in torch.linspace(0.5, 6, 56)]
    if task == "normals":
        axis = torch.linspace(-1, 1, 9)
        grid = torch.cartesian_prod(axis, axis, axis)
        return list(F.normalize(grid[grid.norm(dim=1) > 0.1], dim=1))
    return [torch.tensor([p]) for p in torch.linspace(0, 1, 21)]


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_constant_scores_better(name: str, seed: int) -> None:
    labels, _ = labels_and_predictions(4, seed)
    task, label = get_task(name), labels[name]
    best = best_constant(name, [label[:3], label[3:]], CHANNELS[name])[task.score.name]
    metric = task.build_metric(CHANNELS[name])
    others = []
    for constant in other_constants(name):
        metric.reset()
        metric.update((constant.view(-1, 1, 1) if constant.ndim else constant).expand_as(label), label)
        others.append(metric.compute()[task.score.name].item())
    if task.score.higher_is_better:
        assert best >= max(others) > min(others)
    else:
        assert best <= min(others) + 1e-9 < max(others)


def test_the_median_direction_prefers_the_majority_to_the_mean() -> None:
    # Six of ten normals point along x, four along y: the median is x, which a mean would miss by far.
    directions = torch.tensor([[1.0, 0, 0]] * 6 + [[0.0, 1, 0]] * 4, dtype=torch.float64)
    histogram = DirectionHistogram()
    histogram.update(directions[:5])
    histogram.update(directions[5:])
    assert torch.rad2deg(histogram.median()[0].clamp(max=1).acos()) < 0.01


def test_the_median_direction_finds_the_better_of_two_far_minima() -> None:
    generator = torch.Generator().manual_seed(0)
    poles = torch.tensor([[0.0, 0, 1]] * 900 + [[0.0, 0, -1]] * 1000, dtype=torch.float64)
    histogram = DirectionHistogram()
    histogram.update(F.normalize(poles + 0.05 * torch.randn(1900, 3, generator=generator, dtype=torch.float64), dim=1))
    assert histogram.median()[2] < -0.99


def test_batches_of_a_data_loader_will_do() -> None:
    labels, _ = labels_and_predictions(4)
    batches = [{"depth": labels["depth"][:2], "name": ["a", "b"]}, {"depth": labels["depth"][2:], "name": ["c", "d"]}]
    valid = labels["depth"][labels["depth"] != 255].double()
    assert best_constant("depth", batches)["rmse"] == pytest.approx(valid.std(correction=0).item(), rel=1e-6)


def test_labels_that_can_be_read_only_once_are_refused() -> None:
    with pytest.raises(TypeError, match="labels: got list_iterator, expected what can be gone through twice"):
        best_constant("depth", iter([torch.ones(1, 1, 2, 2)]))


@pytest.mark.parametrize("name", ["depth", "normals"])
def test_labels_without_a_valid_pixel_have_no_best_constant(name: str) -> None:
    with pytest.raises(ValueError, match="labels: got no valid pixel, expected one at least"):
        best_constant(name, [torch.full((1, CHANNELS[name], 2, 2), 255.0)])


def test_classes_without_their_number_are_refused() -> None:
    with pytest.raises(ValueError, match="channels: got None"):
        best_constant("semseg", [torch.zeros(1, 2, 2, dtype=torch.int64)])
