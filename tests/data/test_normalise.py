"""Images to and from ImageNet normalisation."""

import numpy as np
import pytest
import torch

from seqca.data.normalise import IMAGENET_MEAN, IMAGENET_STD, denormalise, normalise

IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14


def test_arrays_and_tensors_give_the_same_normalised_image():
    expected = (IMAGE / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    result = normalise(IMAGE)
    assert result.dtype == torch.float32 and result.shape == (3, 2, 3)
    np.testing.assert_allclose(result.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert torch.equal(normalise(torch.from_numpy(IMAGE.transpose(2, 0, 1).copy())), result)


def test_denormalise_undoes_normalise_for_every_level():
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    np.testing.assert_array_equal(denormalise(normalise(levels)), levels)
    assert denormalise(torch.full((3, 1, 1), 100.0)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (IMAGE.astype(np.float32), TypeError, "image: got float32, expected uint8"),
        (torch.zeros(3, 2, 2), TypeError, "image: got torch.float32, expected uint8"),
        ([[1]], TypeError, "image: got list, expected a NumPy array"),
        (IMAGE[..., :2], ValueError, r"image: got an array of shape \(2, 3, 2\), expected \(H, W, 3\)"),
        (
            torch.zeros(2, 3, 3, dtype=torch.uint8),
            ValueError,
            r"image: got a tensor of shape \(2, 3, 3\), expected \(3, H, W\)",
        ),
    ],
)
def test_other_images_are_refused(image, error, message):
    with pytest.raises(error, match=message):
        normalise(image)


def test_denormalise_refuses_what_is_no_normalised_image():
    with pytest.raises(TypeError, match="floating"):
        denormalise(torch.zeros(3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        denormalise(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="NaN"):
        denormalise(torch.full((3, 2, 2), float("nan")))
