"""Thinning is that of scikit-image, faster."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.morphology import thin as published

from seqca.thinning import thin
from tests.golden import load


@pytest.mark.parametrize("seed", range(40))
def test_the_result_is_that_of_scikit_image(seed):
    generator = np.random.default_rng(seed)
    size = generator.integers(1, 60, 2)
    mask = gaussian_filter(generator.normal(size=size), generator.uniform(0, 4)) > generator.normal() / 10
    before = mask.copy()
    assert np.array_equal(thin(mask), published(mask))
    assert np.array_equal(mask, before)


def test_the_order_in_memory_does_not_matter():
    mask = gaussian_filter(np.random.default_rng(0).normal(size=(40, 50)), 2) > 0
    assert np.array_equal(thin(np.asfortranarray(mask)), published(mask))


def test_a_map_of_a_photograph_s_size_is_thinned_as_by_scikit_image():
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(480, 640)), 3)
    mask = np.abs(noise) < noise.std() / 2  # bands of all widths, with junctions
    assert np.array_equal(thin(mask), published(mask)) and 1000 < thin(mask).sum() < mask.sum() / 2


@pytest.mark.parametrize("number", range(4))
def test_true_edges_are_thinned_as_the_golden_ones(number):
    golden = load("odsf")
    thinned, expected = thin(golden[f"edges{number}"].numpy()), golden[f"edges_thin{number}"].numpy()
    assert (thinned != expected).sum() <= 2 and np.array_equal(thinned, published(golden[f"edges{number}"].numpy()))


@pytest.mark.parametrize("value", [False, True])
def test_a_map_without_lines_is_thinned_too(value):
    mask = np.full((17, 20), value)
    assert np.array_equal(thin(mask), published(mask))


def test_a_map_is_two_dimensional():
    with pytest.raises(ValueError, match=r"mask: got \(1, 4, 4\), expected \(H, W\)"):
        thin(np.zeros((1, 4, 4)))
