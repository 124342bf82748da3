"""What a label is, and the refusal of one outside its range, with the sample, the value and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch

IGNORE = 255.0
"""Marks ignored pixels in every label that has any."""

UNIT_TOLERANCE = 1e-2


class LabelKind(Enum):
    """What the values of a label are, which decides how a label is mirrored, rotated, magnified and drawn.

    A value moves with its pixel whatever it is. What else happens to it depends on the kind:

    - ``CLASS``: class indices (H, W). Nothing else; drawn with a legend.
    - ``BINARY``: 0 or 1, (1, H, W). Nothing else.
    - ``SCALAR``: quantities (C, H, W) that do not depend on the camera, such as an albedo. Nothing else.
    - ``DISTANCE``: distances from the camera (1, H, W), in metres. Divided by the factor of a magnification, as a
      surface that looks s times as large is s times as near; drawn with a scale.
    - ``VECTOR``: vectors in camera coordinates (C, H, W), C ≥ 2, the first component to the right and the second down.
      Mirroring negates the first component, a rotation of the image rotates the first two.
    """

    CLASS = "class"
    BINARY = "binary"
    SCALAR = "scalar"
    DISTANCE = "distance"
    VECTOR = "vector"


@dataclass(frozen=True)
class LabelRange:
    """What the values of a task's label may be.

    `low` and `high` are the least and the greatest valid value, both included (None: no bound; a class label's
    upper bound is the data set's number of classes, given to `check_label`). `ignore` marks pixels without a
    label. `integer`: whole numbers only. `unit_norm`: vectors along the channel axis, of length 1 to within
    UNIT_TOLERANCE, ignored where all channels are `ignore`. NaN and infinity are never valid.
    """

    low: float | None = None
    high: float | None = None
    ignore: float | None = 255
    integer: bool = False
    unit_norm: bool = False


def check_label(
    label: torch.Tensor | np.ndarray, valid: LabelRange, *, source: str, task: str, classes: int | None = None
) -> None:
    """Raise ValueError if a label has a value outside its range.

    `label`: one sample's label, (H, W) or (C, H, W), tensor or array; vectors (C, H, W). `valid`: what it may
    hold, `seqca.tasks.Task.labels` of a registered task. `source`: the file or sample it came from and `task`, for
    the message. `classes`: number of classes of a label of class indices, whose values are then 0 … classes - 1.
    """
    values = label.detach().cpu().numpy() if isinstance(label, torch.Tensor) else np.asarray(label)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{source}: {task}: got dtype {values.dtype}, expected numbers")
    if classes is not None:
        valid = LabelRange(0, classes - 1, valid.ignore, True, valid.unit_norm)
    if valid.unit_norm:
        _check_unit(values, source, task, valid)
        return
    wrong = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    if valid.low is not None:
        wrong |= values < valid.low
    if valid.high is not None:
        wrong |= values > valid.high
    if valid.integer and values.dtype.kind == "f":
        wrong |= values != np.floor(values)
    if valid.ignore is not None:
        wrong &= values != valid.ignore
    if wrong.any():
        at = _first(wrong)
        raise ValueError(
            f"{source}: {task}: got {values[at]} at {_place(at)}{_others(wrong)}, expected {_expected(valid)}"
        )


def _check_unit(values: np.ndarray, source: str, task: str, valid: LabelRange) -> None:
    if values.ndim != 3:
        raise ValueError(f"{source}: {task}: got shape {values.shape}, expected (C, H, W)")
    length = np.sqrt(np.square(values.astype(np.float64)).sum(axis=0))
    wrong = ~(np.abs(length - 1) <= UNIT_TOLERANCE)  # NaN compares false
    if valid.ignore is not None:
        wrong &= ~(values == valid.ignore).all(axis=0)
    if wrong.any():
        at = _first(wrong)
        vector = ", ".join(str(v) for v in values[:, at[0], at[1]])
        raise ValueError(
            f"{source}: {task}: got the vector ({vector}) of length {length[at]:.4g} at {_place(at)}{_others(wrong)}, "
            f"expected {_expected(valid)}"
        )


def _first(wrong: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))


def _others(wrong: np.ndarray) -> str:
    count = int(wrong.sum()) - 1
    return f" and {count} more" if count else ""


def _place(at: tuple[int, ...]) -> str:
    if len(at) < 2:
        return f"index {at}"
    channel = f"channel {at[0]}, " if len(at) == 3 else ""
    return f"{channel}row {at[-2]}, column {at[-1]}"


def _expected(valid: LabelRange) -> str:
    if valid.unit_norm:
        text = f"vectors of length 1 (to {UNIT_TOLERANCE})"
    else:
        kind = "integers" if valid.integer else "finite values"
        low = "" if valid.low is None else f" from {valid.low:g}"
        high = "" if valid.high is None else f" to {valid.high:g}"
        text = f"{kind}{low}{high}"
    return text if valid.ignore is None else f"{text}, or {valid.ignore:g} where there is no label"
