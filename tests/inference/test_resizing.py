"""Pictures shrunk for the network, predictions brought back."""

import numpy as np
import pytest

from seqca.inference.resizing import enlarge, fitting_size, shrink


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((480, 640), None, (480, 640)),
        ((480, 640), 640, (480, 640)),
        ((480, 640), 320, (240, 320)),
        ((640, 480), 320, (320, 240)),
        ((4000, 3), 100, (100, 1)),
    ],
)
def test_the_longer_side_fits_and_the_proportion_stays(size, max_side, expected):
    assert fitting_size(*size, max_side) == expected


def test_shrinking_averages_over_what_a_pixel_stands_for():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    shrunk = shrink(stripes, 16)
    assert shrunk.shape == (16, 16, 3) and shrunk.dtype == np.uint8
    assert (abs(shrunk[:, 2:-2].astype(int) - 100) <= 5).all()  # taking single pixels would give 0 or 200


def test_classes_are_never_mixed():
    classes = np.array([[0, 3], [7, 1]], np.uint8)
    assert np.array_equal(enlarge(classes, "semseg", (4, 6)), np.kron(classes, np.ones((2, 3), np.uint8)))


def test_depth_is_interpolated_between_pixel_centres_and_keeps_its_metres():
    assert np.allclose(enlarge(np.array([[[1.0, 3.0]]], np.float32), "depth", (1, 4)), [[[1, 1.5, 2.5, 3]]])


def test_normals_keep_length_one():
    normals = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]], np.float32)
    enlarged = enlarge(normals, "normals", (3, 7))
    assert np.allclose(np.linalg.norm(enlarged, axis=0), 1, atol=1e-6)
    assert np.allclose(enlarged[:, 1, 3], [0.5**0.5, 0.5**0.5, 0], atol=1e-6)
