"""Predictions and labels that show what `upsampled_loss` does."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate, normalize

from seqca.loss_type import Loss

from ..shared.sample import Sample, Sampler, map_size, normal


def _classes(tokens: int, channels: int, generator: Generator) -> Sample:
    """Stride 4, every fifth pixel ignored."""
    h, w = map_size(tokens)
    prediction = normal(3, channels, h, w, generator=generator)
    target = torch.randint(channels, (3, 4 * h, 4 * w), generator=generator)
    target.view(-1)[::5] = 255 if channels <= 255 else -1
    loss = Loss("cross_entropy", ignore=255 if channels <= 255 else -1)
    return Sample({"prediction": prediction, "target": target, "loss": loss}, ("prediction",))


def _dense(
    tokens: int, channels: int, size: Callable[[int, int], tuple[int, int]], generator: Generator
) -> tuple[Tensor, Tensor]:
    """A prediction and noise in the place and the dtype of its label, of the size that `size` makes of the cells."""
    h, w = map_size(tokens)
    noise = normal(3, channels, *size(h, w), generator=generator).float()
    return normal(3, channels, h, w, generator=generator), noise


def _clear_of(upsampled: Tensor, target: Tensor) -> Tensor:
    """A label nowhere so close to the prediction that a rounding decides the sign of the difference."""
    difference = target - upsampled
    return (upsampled + torch.where(difference < 0, -1, 1) * difference.abs().clamp(min=0.125)).float()


def _values(tokens: int, channels: int, generator: Generator) -> Sample:
    """Ratios that are no integers, every fifth entry ignored."""
    prediction, target = _dense(tokens, channels, lambda h, w: (2 * h + 1, w + w // 2 + 1), generator)
    target = _clear_of(interpolate(prediction, target.shape[-2:], mode="bilinear"), target)
    target.view(-1)[::5] = 255
    loss = Loss("l1", ignore=255)
    return Sample({"prediction": prediction, "target": target, "loss": loss}, ("prediction",))


def _unit_vectors(tokens: int, channels: int, generator: Generator) -> Sample:
    """An odd stride across, none down, every fifth pixel ignored."""
    prediction, noise = _dense(tokens, channels, lambda h, w: (h, 3 * w), generator)
    upsampled = normalize(interpolate(prediction, noise.shape[-2:], mode="bilinear"), dim=1)
    target = _clear_of(upsampled, normalize(noise, dim=1))
    target.flatten(2)[:, :, ::5] = 255
    loss = Loss("unit_l1", ignore=255)
    return Sample({"prediction": prediction, "target": target, "loss": loss}, ("prediction",))


def _few_positives(tokens: int, channels: int, generator: Generator) -> Sample:
    """About every sixth pixel positive, which the batch's weight makes up for."""
    prediction, noise = _dense(tokens, channels, lambda h, w: (2 * h, 2 * w), generator)
    target = (noise > 1).float()
    return Sample({"prediction": prediction, "target": target, "loss": Loss("balanced_bce")}, ("prediction",))


def _two_classes(tokens: int, channels: int, generator: Generator) -> Sample:
    """Two channels whatever their number, stride 8, the last row ignored, a fixed weight."""
    prediction, noise = _dense(tokens, 2, lambda h, w: (8 * h, 8 * w), generator)
    target = (noise[:, :1] > 1).float()
    target[:, :, -1] = 255
    # A weight that does not balance: else gradients cancel in the mean of their one channel and its negative, and what
    # is left, rounding errors alone, is chance.
    loss = Loss("two_class", ignore=255, positive_weight=0.125)
    return Sample({"prediction": prediction, "target": target, "loss": loss}, ("prediction",))


SAMPLES: dict[str, Sampler] = {
    "classes": _classes,
    "values": _values,
    "unit vectors": _unit_vectors,
    "few positives": _few_positives,
    "two classes": _two_classes,
}
