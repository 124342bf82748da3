"""Predictions that went through files, by numbers worked out by hand."""

import pytest
import torch

from seqca.labels import LabelKind
from seqca.metrics.stored import rounded_down, to_size


def test_probabilities_are_rounded_down_to_a_level_of_256():
    stored = rounded_down(torch.tensor([0.0, 0.0039, 0.004, 0.5, 0.9999, 1.0]), LabelKind.BINARY)
    assert (stored * 255).tolist() == pytest.approx([0, 0, 1, 127, 254, 255])


def test_vectors_are_rounded_down_to_a_level_of_256_from_minus_one_to_one():
    stored = rounded_down(torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]), LabelKind.VECTOR)
    # (n + 1) 127.5 = 0, 63.75, 127.5, 191.25, 255
    assert stored.tolist() == pytest.approx([level / 127.5 - 1 for level in (0, 63, 127, 191, 255)])


@pytest.mark.parametrize("kind", [LabelKind.CLASS, LabelKind.DISTANCE, LabelKind.SCALAR])
def test_classes_distances_and_quantities_are_stored_as_they_are(kind):
    values = torch.tensor([0.0, 1.237, 39.0])
    assert torch.equal(rounded_down(values, kind), values)


def test_classes_are_resized_to_the_nearest_pixel():
    resized = to_size(torch.tensor([[[3, 7]]]), LabelKind.CLASS, (1, 4))
    assert resized.tolist() == [[[3, 3, 7, 7]]] and resized.dtype == torch.int64


@pytest.mark.parametrize("kind", [kind for kind in LabelKind if kind is not LabelKind.CLASS])
def test_all_else_is_resized_bilinearly_between_the_centres_of_pixels(kind):
    assert to_size(torch.tensor([[[[0.0, 1.0]]]]), kind, (1, 4)).tolist() == [[[[0, 0.25, 0.75, 1]]]]
