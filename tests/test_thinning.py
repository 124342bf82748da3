"""Thinning is that of scikit-image, faster."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.morphology import thin as published

from seqca.thinning import thin


@pytest.mark.parametrize("seed", range(40))
def test_the_result_is_that_of_scikit_image(seed):
    generator = np.random.default_rng(seed)
    size = generator.integers(1, 60, 2)
    mask = gaussian_filter(generator.normal(size=size), generator.uniform(0, 4)) > generator.normal() / 10
    before = mask.copy()
    assert np.array_equal(thin(mask), published(mask))
    assert np.array_equal(mask, before)


@pytest.mark.parametrize("value", [False, True])
def test_a_map_without_lines_is_thinned_too(value):
    mask = np.full((17, 20), value)
    assert np.array_equal(thin(mask), published(mask))


def test_a_map_is_two_dimensional():
    with pytest.raises(ValueError, match=r"mask: got \(1, 4, 4\), expected \(H, W\)"):
        thin(np.zeros((1, 4, 4)))
