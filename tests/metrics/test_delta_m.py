"""The gain of multi-task over single-task learning."""

import pytest

from seqca.metrics import delta_m

BASELINE = {"semseg/mIoU": 0.4, "depth/rmse": 0.5, "normals/mean": 20.0, "edge/pixel_f": 0.6}


def test_differences_are_relative_and_count_positive_where_better() -> None:
    scores = {"semseg/mIoU": 0.44, "depth/rmse": 0.4, "depth/log_rmse": 9.0, "normals/mean": 21.0}
    # +10 %, +20 % (lower is better), −5 %; edge was not learnt and log_rmse is no primary score.
    assert delta_m(scores, BASELINE) == pytest.approx((10 + 20 - 5) / 3)


def test_equal_scores_make_no_difference() -> None:
    assert delta_m(BASELINE, BASELINE) == 0


@pytest.mark.parametrize(
    "scores, baseline, message",
    [
        ({"semseg/mIoU": 0.4}, {}, "single_task_scores: got nothing, expected 'semseg/mIoU' as well"),
        ({"semseg/mIoU": 0.4}, {"semseg/mIoU": 0}, r"single_task_scores\['semseg/mIoU'\]: got 0, expected"),
        ({"semseg/mIoU": float("nan")}, BASELINE, r"scores\['semseg/mIoU'\]: got nan, expected a finite number"),
        ({"depth/log_rmse": 0.4}, BASELINE, "scores: got depth/log_rmse, expected 'depth/rmse' as well"),
        ({"smell/nose": 0.4}, BASELINE, "task: got 'smell', expected one of semseg"),
        ({}, BASELINE, "scores: got nothing"),
    ],
)
def test_what_cannot_be_compared_is_refused(scores: dict, baseline: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        delta_m(scores, baseline)
