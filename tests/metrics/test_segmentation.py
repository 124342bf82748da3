"""Mean intersection over union."""

import pytest
import torch

from seqca.metrics import HumanPartsIoU, MeanIoU


def test_hand_counted_iou_of_three_classes() -> None:
    metric = MeanIoU(3)
    target = torch.tensor([[[0, 0, 1, 255], [1, 2, 2, 255]]])
    prediction = torch.tensor([[[0, 1, 1, 0], [0, 2, 1, 2]]])
    metric.update(prediction, target)
    # Class 0: 1 hit, 2 predicted, 2 labelled. Class 1: 1, 3, 2. Class 2: 1, 1, 2. The last column is ignored.
    assert metric.compute()["mIoU"].item() == pytest.approx((1 / 3 + 1 / 4 + 1 / 2) / 3)


def test_a_class_that_occurs_nowhere_counts_as_zero() -> None:
    metric = MeanIoU(4)
    metric.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]]))
    assert metric.compute()["mIoU"].item() == pytest.approx(2 / 4)


def test_pixels_of_all_images_are_pooled() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 6, (5, 9, 11), generator=generator)
    target[target == 5] = 255
    prediction = torch.where(torch.rand(5, 9, 11, generator=generator) < 0.6, target % 5, 2)
    metric = MeanIoU(5)
    metric.update(prediction[:2], target[:2])
    metric.update(prediction[2:], target[2:])
    iou = []
    for c in range(5):
        found, true = (prediction == c) & (target != 255), target == c
        iou.append(((found & true).sum() / (found | true).sum()).item())
    assert metric.compute()["mIoU"].item() == pytest.approx(sum(iou) / 5)


def test_human_parts_leaves_out_images_without_a_person() -> None:
    person = torch.tensor([[0, 1, 2, 255]])
    empty = torch.tensor([[0, 0, 255, 255]])
    wrong = torch.tensor([[3, 3, 3, 3]])
    metric = HumanPartsIoU()
    metric.update(torch.stack([person.clamp(max=6), wrong]), torch.stack([person, empty]))
    assert metric.compute()["mIoU"].item() == pytest.approx(3 / 7)
    with_empty_image = MeanIoU(7)
    with_empty_image.update(torch.stack([person.clamp(max=6), wrong]), torch.stack([person, empty]))
    assert with_empty_image.compute()["mIoU"].item() == pytest.approx((1 / 3 + 2) / 7)


@pytest.mark.parametrize(
    "prediction, target, message",
    [
        (
            torch.zeros(1, 2, 2),
            torch.zeros(1, 2, 2, dtype=torch.int64),
            "prediction: got torch.float32, expected integers",
        ),
        (
            torch.zeros(1, 2, 3, dtype=torch.int64),
            torch.zeros(1, 2, 2, dtype=torch.int64),
            r"prediction: got shape \(1, 2, 3\), expected \(1, 2, 2\) as of the target",
        ),
        (
            torch.full((1, 2, 2), 3),
            torch.zeros(1, 2, 2, dtype=torch.int64),
            "prediction: got 3 to 3, expected classes 0 to 2",
        ),
        (
            torch.zeros(1, 2, 2, dtype=torch.int64),
            torch.full((1, 2, 2), -1),
            "target: got -1 to -1, expected classes 0 to 2",
        ),
    ],
)
def test_what_are_no_class_maps_is_refused(prediction: torch.Tensor, target: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeanIoU(3).update(prediction, target)


@pytest.mark.parametrize("classes", [0, 2.5, True, "3"])
def test_a_number_of_classes_that_is_none_is_refused(classes: object) -> None:
    with pytest.raises(ValueError, match=r"classes: got .*, expected a positive integer"):
        MeanIoU(classes)


@pytest.mark.parametrize("wrong", ["prediction", "target"])
def test_a_batch_that_is_refused_leaves_no_trace(wrong: str) -> None:
    metric = MeanIoU(3)
    right = torch.tensor([[[0, 1, 2]]])
    metric.update(right, right)
    maps = {"prediction": right, "target": right} | {wrong: torch.tensor([[[0, 1, 7]]])}
    with pytest.raises(ValueError, match=f"{wrong}: got 0 to 7"):
        metric.update(**maps)
    assert metric.compute()["mIoU"] == 1
    assert [state.sum() for state in (metric.hits, metric.predicted, metric.labelled)] == [3, 3, 3]
