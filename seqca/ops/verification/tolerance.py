"""The rule by which results are judged, on every machine, without exceptions.

Against the float64 reference on the same rounded inputs, the largest error and the mean error of the worst
channel may be twice those of the reference run in the dtype under test, plus those of rounding the exact
result once. The bound moves with the conditioning of the data; the mean per channel sees a bias that hides
below the largest error.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Errors(NamedTuple):
    """Two norms of an error."""

    largest: float
    """Over all elements."""
    channel: float
    """Of the mean over all elements of one channel, the worst channel's."""


def errors(actual: Tensor, exact: Tensor, channel_axis: int = -1) -> Errors:
    """The errors of a result against the exact one, both of the same shape."""
    if actual.shape != exact.shape:
        raise ValueError(f"actual: got shape {tuple(actual.shape)}, expected {tuple(exact.shape)}")
    difference = actual.double() - exact.double()
    if difference.ndim == 0:
        return Errors(abs(difference.item()), abs(difference.item()))
    means = difference.movedim(channel_axis, 0).flatten(1).mean(1) if difference.ndim > 1 else difference
    return Errors(difference.abs().max().item(), means.abs().max().item())


def allowed(rough: Tensor, exact: Tensor, dtype: torch.dtype, channel_axis: int = -1) -> Errors:
    """The errors that a result of a dtype may have.

    Args:
        rough: the reference's result in `dtype`; in float32 if `dtype` is float64, for which no more exact
            result exists: its errors are scaled by the ratio of the roundings, and what serves as exact may
            have them once itself.
        exact: the reference's result in float64 on the same inputs.
        dtype: of the result under judgement.
        channel_axis: see `errors`.

    Raises:
        ValueError: if the reference is not finite, and so no yardstick.
    """
    if not (rough.isfinite().all() and exact.isfinite().all()):
        raise ValueError("rough, exact: the reference is not finite here, choose other inputs")
    of_reference = errors(rough, exact, channel_axis)
    of_rounding = errors(exact.to(rough.dtype), exact, channel_axis)
    if exact.ndim == 0:  # among many numbers some are rounded by half an ulp, but one alone may need no rounding at all
        of_rounding = Errors(*[abs(exact.item()) * torch.finfo(rough.dtype).eps / 2] * 2)
    scale = torch.finfo(dtype).eps / torch.finfo(rough.dtype).eps
    times, roundings = (3, 2) if dtype == torch.float64 else (2, 1)
    pairs = zip(of_reference, of_rounding, strict=True)
    return Errors(*(scale * (times * reference + roundings * rounding) for reference, rounding in pairs))


class Verdict(NamedTuple):
    """One tensor, judged."""

    what: str
    found: Errors
    bound: Errors

    @property
    def ok(self) -> bool:
        """Whether both errors are within their bounds; NaN never is."""
        return all(found <= bound for found, bound in zip(self.found, self.bound, strict=True))

    def __str__(self) -> str:
        return (
            f"{self.what}: largest error {self.found.largest:.3g} (allowed {self.bound.largest:.3g}), "
            f"mean error of a channel {self.found.channel:.3g} (allowed {self.bound.channel:.3g})"
        )
