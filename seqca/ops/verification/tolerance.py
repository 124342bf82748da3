"""The rule by which results are judged, on every machine, without exceptions: what the reference's errors allow.

The reference's error on given inputs is one draw of a distribution: another processor sums in another order and draws
another. So the reference is run on inputs moved at random by a little, again and again, and each run is compared with
the exact result of its own inputs (`draws.py`). Of every error two norms are taken. In each, the typical error is the
root mean square of the draws, and a multiple of it is allowed, see `multiple_allowed`. docs/tolerance.md has the
reasons and the proof.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

FALSE_ALARMS = 5e-7
"""The probability, per norm, that one more draw of the reference exceeds what is allowed."""

DRAWS = 24
"""Of the reference. 6.8 times the typical error is then allowed: a fault of eight times is seen even where the kernel's
own error, of once, takes away from it."""


class Errors(NamedTuple):
    """Two norms of an error, numbers or, until they are read, tensors that hold one."""

    largest: Any
    """Over all elements."""
    channel: Any
    """Of the mean over all elements of one channel, the worst channel's."""


def errors(actual: Tensor, exact: Tensor, channel_axis: int = -1) -> Errors:
    """The errors of a result against the exact one, both of the same shape; on its device, see `read`."""
    if actual.shape != exact.shape:
        raise ValueError(f"actual: got shape {tuple(actual.shape)}, expected {tuple(exact.shape)}")
    difference = actual.double() - exact.double()
    if difference.ndim == 0:
        return Errors(difference.abs(), difference.abs())
    means = difference.movedim(channel_axis, 0).flatten(1).mean(1) if difference.ndim > 1 else difference
    return Errors(difference.abs().max(), means.abs().max())


def read(norms: Sequence[Any]) -> list[Any]:
    """Norms in numbers. All are read at once: each reading of its own would wait for the device."""
    numbers = iter(torch.stack([torch.as_tensor(x) for norm in norms for x in norm]).tolist())
    return [type(norm)(*(next(numbers) for _ in norm)) for norm in norms]


@cache
def student_quantile(probability: float, draws: int) -> float:
    """What the absolute value of Student's t exceeds with a probability.

    By bisection of P(|t| > x) = 1 − sin θ · Σ_j c_j cos²ʲ θ, θ = arctan(x/√ν), c_j = (1·3·…·(2j−1))/(2·4·…·2j),
    j < ν/2, which holds for an even number ν of degrees of freedom (Abramowitz and Stegun, 26.7.4).

    Args:
        probability: of both tails together, at least 10⁻¹².
        draws: ν, the number of independent errors of known mean 0 that the scale is estimated from; even.
    """
    if draws < 2 or draws % 2:
        raise ValueError(f"draws: got {draws}, expected an even number")

    def exceeded(x: float) -> float:
        angle = math.atan(x / math.sqrt(draws))
        term, total = 1.0, 0.0
        for j in range(draws // 2):
            total += term
            term *= (2 * j + 1) / (2 * j + 2) * math.cos(angle) ** 2
        return 1 - math.sin(angle) * total

    low, high = 0.0, 1.0
    while exceeded(high) > probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeded(middle) > probability else (low, middle)
    return high


def typical_error(draws: Sequence[float], roundings: Sequence[float]) -> float:
    """The root mean square of the draws of a norm; or of what rounding the exact result once adds to it, if larger.

    Raises:
        ValueError: if a draw is not finite, so that the reference is no yardstick.
    """
    if not all(map(math.isfinite, draws)):
        raise ValueError("draws: got an error of the reference that is not finite, expected inputs on which it is")
    return max(_root_mean_square(draws), _root_mean_square(roundings))


def _root_mean_square(numbers: Sequence[float]) -> float:
    largest = max(numbers)
    return largest and largest * math.sqrt(sum((x / largest) ** 2 for x in numbers) / len(numbers))


def multiple_allowed(draws: int) -> float:
    """How many times the typical error of so many draws a result may have: Student's quantile for `FALSE_ALARMS`.

    That is exact where the norm is the absolute value of one normal number, as of a scalar. Of all norms of normal
    errors, whatever their covariance, that one has the heaviest tail (S-inequality, Latała and Oleszkiewicz 1999).

    Raises:
        ValueError: for an odd number of draws; or for more than 36, since the largest of them could exceed what is
            allowed, which the proof needs it not to.
    """
    if draws > 36:
        raise ValueError(f"draws: got {draws}, expected at most 36")
    return student_quantile(FALSE_ALARMS, draws)


class Verdict(NamedTuple):
    """One tensor, judged."""

    what: str
    found: Any
    """Its errors: a named tuple of numbers, such as `Errors`."""
    bound: Any
    """What they may be, in the same norms."""

    @property
    def ok(self) -> bool:
        """Whether all errors are within their bounds; NaN never is."""
        return all(found <= bound for found, bound in zip(self.found, self.bound, strict=True))

    def __str__(self) -> str:
        parts = zip(self.found._fields, self.found, self.bound, strict=True)
        return f"{self.what}: " + ", ".join(
            f"{_WORDS.get(norm, norm)} error {found:.3g} (allowed {bound:.3g})" for norm, found, bound in parts
        )


_WORDS = {"channel": "worst channel's mean"}
