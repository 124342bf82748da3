"""Predictions as they are after they were stored as pictures."""

from torch import Tensor
from torch.nn.functional import interpolate

from seqca.labels import LabelKind


def as_stored(prediction: Tensor, kind: LabelKind, size: tuple[int, ...]) -> Tensor:
    """A decoded prediction at an image's original size and with the levels of a stored picture.

    Protocol `mtinet` writes predictions to files before it evaluates them: resized (classes to the nearest pixel,
    others bilinearly), then in 8 bits, rounded down, probabilities over [0, 1] and vectors over [−1, 1]; distances are
    stored as they are.

    Args:
        prediction: (B, H, W) classes or (B, C, H, W).
        kind: of the task's label.
        size: height and width.
    """
    if kind is LabelKind.CLASS:
        return interpolate(prediction[:, None].float(), size, mode="nearest")[:, 0].to(prediction.dtype)
    resized = interpolate(prediction, size, mode="bilinear", align_corners=False)
    if kind is LabelKind.BINARY:
        return (resized * 255).floor() / 255
    if kind is LabelKind.VECTOR:
        return ((resized + 1) * 127.5).floor() / 127.5 - 1
    return resized
