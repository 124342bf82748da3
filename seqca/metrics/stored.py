"""Predictions as they are after they were resized and stored as pictures."""

from torch import Tensor
from torch.nn.functional import interpolate

from seqca.labels import LabelKind


def to_size(prediction: Tensor, kind: LabelKind, size: tuple[int, ...]) -> Tensor:
    """A decoded prediction, (B, H, W) classes or (B, C, H, W), at another height and width: classes to the nearest
    pixel, others bilinearly."""
    if kind is LabelKind.CLASS:
        return interpolate(prediction[:, None].float(), size, mode="nearest")[:, 0].to(prediction.dtype)
    return interpolate(prediction, size, mode="bilinear", align_corners=False)


def rounded_down(prediction: Tensor, kind: LabelKind) -> Tensor:
    """A decoded prediction with the levels of a stored picture, 8 bits, rounded down: probabilities over [0, 1] and
    vectors over [−1, 1]. Classes have these levels already, and distances are stored as they are."""
    if kind is LabelKind.BINARY:
        return (prediction * 255).floor() / 255
    if kind is LabelKind.VECTOR:
        return ((prediction + 1) * 127.5).floor() / 127.5 - 1
    return prediction
