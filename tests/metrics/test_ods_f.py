"""odsF by the largest matching there is, against counts of an independent, approximate implementation."""

import itertools

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from seqca.metrics import OdsF
from seqca.metrics.edge_matching import most_pairs, suppress_non_maxima
from tests.golden import load
from tests.processes import in_two_processes

GOLDEN = load("odsf")
MAPS = range(4)


def maps(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and true edges, (1, 1, H, W)."""
    prediction = GOLDEN[f"prediction{number}"].float() / 255
    return prediction[None, None], GOLDEN[f"edges{number}"].float()[None, None]


def best_f(counts: torch.Tensor) -> float:
    matched, predicted, _, true = counts.double().unbind(1)
    return float((2 * matched / (predicted + true)).max())


READINGS = {  # (distance, protocol) -> name of the golden counts
    (0.0075, "mtinet"): "counts{}_0.0075",
    (0.011, "mtinet"): "counts{}_0.011",
    (0.011, "invpt"): "nms_counts{}_0.011",
}


@pytest.mark.parametrize(("distance", "protocol"), READINGS)
def test_counts_agree_with_the_golden_ones_and_a_little_more_is_matched(distance, protocol):
    total = golden_total = 0
    for number in MAPS:
        metric = OdsF(distance, protocol)
        metric.update(*maps(number))
        counts, golden = metric.counts(), GOLDEN[READINGS[distance, protocol].format(number)]
        assert counts.shape == golden.shape
        more = counts - golden
        assert more[:, 1].abs().max() <= 2 and more[:, 3].abs().max() == 0
        # A pixel fewer after thinning may be a pair fewer; the golden matching is drawn at random, and not the largest.
        for matched in (0, 2):
            assert (more[:, matched] >= more[:, 1].clamp(max=0)).all() and more[:, matched].max() <= 4
        assert metric.compute()["odsF"].item() == pytest.approx(best_f(golden), abs=0.003)
        total, golden_total = total + counts, golden_total + golden
    assert (total[:, 0] <= 1.005 * golden_total[:, 0]).all()


@pytest.mark.parametrize("number", MAPS)
def test_suppression_is_the_golden_one_but_where_a_derivative_vanishes(number):
    prediction, golden = maps(number)[0][0, 0].numpy(), GOLDEN[f"nms{number}"].numpy()
    assert (suppress_non_maxima(prediction) != golden).sum() <= 1
    assert 0.1 < (golden > 0).mean() < 0.6, "much is suppressed and much is not"


def test_what_was_not_stored_in_eight_bits_is_suppressed_as_it_is():
    prediction = torch.rand(30, 40, generator=torch.Generator().manual_seed(0)).numpy()
    suppressed = suppress_non_maxima(prediction)[5:-5, 5:-5]
    kept = suppressed > 0
    assert np.array_equal(suppressed[kept], prediction[5:-5, 5:-5][kept]) and 0.05 < kept.mean() < 0.9


def test_no_larger_matching_exists():
    generator = np.random.default_rng(0)
    for _ in range(30):
        points, others = generator.integers(0, 12, (2, 25, 2))
        points, others = np.unique(points, axis=0), np.unique(others, axis=0)
        tree = cKDTree(others)
        near = np.linalg.norm(points[:, None] - others[None], axis=-1) <= 2
        expected = (maximum_bipartite_matching(csr_array(near), "column") >= 0).sum()
        assert most_pairs(points, tree, 2.0) == expected


def test_an_edge_within_the_distance_is_found_and_one_beyond_it_is_not():
    edges = torch.zeros(1, 1, 30, 40)  # the diagonal is 50 pixels
    edges[..., 5:25, 20] = 1
    for shift, expected in ((2, 1.0), (3, 0.0)):
        metric = OdsF(0.05)  # 2.5 pixels
        metric.update(edges.roll(shift, -1), edges)
        assert metric.compute()["odsF"].item() == expected


def test_an_edge_is_found_once_however_often_it_is_predicted():
    edges = torch.zeros(1, 1, 30, 40)
    edges[..., 5:25, 20] = 1
    twice = edges.roll(-2, -1) + edges.roll(2, -1)
    metric = OdsF(0.05)
    metric.update(twice, edges)
    assert metric.compute()["odsF"].item() == pytest.approx(2 * 20 / (40 + 20))


def test_the_threshold_is_the_data_set_s_and_counts_are_summed_over_images():
    both, alone = OdsF(0.011), [OdsF(0.011), OdsF(0.011)]
    for number in (0, 1):
        both.update(*maps(number))
        alone[number].update(*maps(number))
    assert torch.equal(both.counts(), alone[0].counts() + alone[1].counts())


def test_padding_is_cut_off():
    prediction, edges = maps(1)
    padded = OdsF(0.011, protocol="invpt")
    box = (5, 6, 7, 8)
    padded.update(torch.nn.functional.pad(prediction, box, value=0.7), torch.nn.functional.pad(edges, box, value=255))
    plain = OdsF(0.011, protocol="invpt")
    plain.update(prediction, edges)
    assert torch.equal(padded.counts(), plain.counts())


def test_worker_processes_count_what_one_process_counts():
    several, one = OdsF(0.011, thresholds=3, workers=2), OdsF(0.011, thresholds=3)
    for number in MAPS:
        several.update(*maps(number))
        one.update(*maps(number))
    assert several.compute() == one.compute()
    assert torch.equal(several.counts(), one.counts())
    several.reset()
    assert several.counts().sum() == 0


def score_of_two_processes(rank: int) -> float:
    """What a process that adds the map of its rank finds, matching in a process of its own."""
    metric = OdsF(0.011, thresholds=3, workers=1)
    metric.update(*maps(rank))
    return metric.compute()["odsF"].item()


def test_two_processes_find_the_score_of_all_images_together(tmp_path):
    metric = OdsF(0.011, thresholds=3)
    alone = []
    for number in (0, 1):
        single = OdsF(0.011, thresholds=3)
        for each in (metric, single):
            each.update(*maps(number))
        alone.append(single.compute()["odsF"].item())
    expected = metric.compute()["odsF"].item()
    assert expected not in alone
    assert in_two_processes(tmp_path, score_of_two_processes) == [expected, expected]


def test_the_rough_setting_looks_at_some_thresholds_and_some_images():
    rough = OdsF(0.011, thresholds=9, every=2)
    assert rough.thresholds == tuple(tenth / 10 for tenth in range(1, 10))
    for number in MAPS:
        rough.update(*maps(number))
    expected = OdsF(0.011, thresholds=9)
    for number in (0, 2):
        expected.update(*maps(number))
    assert torch.equal(rough.counts(), expected.counts())


def test_nothing_predicted_or_nothing_to_find_is_no_match():
    for prediction, edges in itertools.product((0.0, 1.0), (0.0, 1.0)):
        if prediction == edges == 1:
            continue
        metric = OdsF(0.011, thresholds=2)
        metric.update(torch.full((1, 1, 9, 9), prediction), torch.full((1, 1, 9, 9), edges))
        assert metric.compute()["odsF"].item() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_distance": 2.0}, "max_distance: got 2.0"),
        ({"max_distance": 0.01, "protocol": "seism"}, "protocol: got 'seism', expected one of mtinet, invpt"),
        ({"max_distance": 0.01, "thresholds": 0}, "thresholds: got 0, expected 1 to 99"),
        ({"max_distance": 0.01, "every": 0}, "every: got 0, expected at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OdsF(**options)
