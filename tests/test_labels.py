"""Labels outside their range are refused with the source, the value and its place."""

import numpy as np
import pytest
import torch

from seqca.labels import LabelRange, check_label

CLASSES = LabelRange(0, 254, integer=True)
DEPTH = LabelRange(1e-3, 254)
BINARY = LabelRange(0, 1, ignore=None)
NORMALS = LabelRange(-1, 1, unit_norm=True)


def refused(label, valid, message, **options):
    with pytest.raises(ValueError, match=message):
        check_label(label, valid, source="a.png", task="some", **options)


def test_valid_labels_pass_as_tensors_and_as_arrays():
    unit = np.zeros((3, 2, 2), np.float32)
    unit[2] = -1.005
    unit[:, 0, 0] = 255
    for label, valid, classes in (
        (np.array([[0, 4, 255]], np.uint8), CLASSES, 5),
        (np.array([[0.5, 255.0]], np.float32), DEPTH, None),
        (np.array([[0.0, 1.0]], np.float32), BINARY, None),
        (unit, NORMALS, None),
    ):
        check_label(label, valid, source="a", task="t", classes=classes)
        check_label(torch.from_numpy(label), valid, source="a", task="t", classes=classes)


def test_a_class_beyond_the_number_of_classes_is_named_with_its_place():
    label = np.zeros((4, 6), np.int64)
    label[2, 3] = 5
    label[3, 5] = 9
    refused(
        label, CLASSES, r"a\.png: some: got 5 at row 2, column 3 and 1 more, expected integers from 0 to 4", classes=5
    )
    refused(-label, CLASSES, "got -5", classes=5)
    refused(label + 0.5, CLASSES, "integers", classes=10)


def test_ignored_pixels_pass_only_where_the_task_has_them():
    ignored = np.full((1, 2, 2), 255, np.float32)
    check_label(ignored, DEPTH, source="a", task="t")
    refused(ignored, BINARY, "got 255.0 at channel 0, row 0, column 0")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("valid", [DEPTH, BINARY, NORMALS, CLASSES, LabelRange()])
def test_nan_and_infinity_are_never_valid(valid, value):
    label = np.full((3, 2, 2), 0.57735, np.float32)
    label[:, 1, 0] = value
    refused(label, valid, "row 1, column 0" if valid not in (BINARY, CLASSES) else "a.png")


def test_depth_must_be_positive():
    refused(
        torch.zeros(1, 3, 3),
        DEPTH,
        r"got 0\.0 at channel 0, row 0, column 0 and 8 more, expected finite values from 0\.001",
    )


def test_normals_must_have_unit_length_or_be_ignored_in_all_channels():
    label = np.zeros((3, 2, 2), np.float32)
    label[1] = 1
    label[0, 1, 1] = 0.5
    refused(label, NORMALS, r"vector \(0\.5, 1\.0, 0\.0\) of length 1\.118 at row 1, column 1")
    label[0, 1, 1] = 255  # in one channel only
    refused(label, NORMALS, "row 1, column 1")
    refused(np.ones((2, 2)), NORMALS, r"a\.png: some: got shape \(2, 2\), expected \(C, H, W\)")


def test_labels_that_are_not_numbers_are_refused():
    with pytest.raises(TypeError, match="a: t: got dtype <U1, expected numbers"):
        check_label(np.array([["x"]]), CLASSES, source="a", task="t")
