"""Random numbers that are the same on every machine and with every version of NumPy.

NumPy guarantees the raw words of its bit generators, not the distributions built on them, so the few
distributions that a scene needs are written out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_BLOCK = 256  # words fetched at once; one call per word would cost more than the layout itself


def bit_generator(*entropy: int) -> np.random.PCG64:
    """The PCG64 of a tuple of 32-bit words; different tuples of one length give independent streams."""
    return np.random.PCG64(np.random.SeedSequence(list(entropy)))


class RandomStream:
    """A stream of random decisions, fixed by `entropy`."""

    def __init__(self, *entropy: int) -> None:
        self._source = bit_generator(*entropy)
        self._words: list[int] = []

    def random(self) -> float:
        """Uniform in [0, 1), 53 random bits."""
        if not self._words:
            self._words = self._source.random_raw(_BLOCK).tolist()
        return (self._words.pop() >> 11) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.random()

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def integer(self, low: int, high: int) -> int:
        """Uniform in low … high, both included."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.random() * len(options))]

    def weighted(self, options: Sequence[tuple[T, float]]) -> T:
        """One of the (option, weight) pairs, in proportion to its weight."""
        left = self.random() * sum(weight for _, weight in options)
        for option, weight in options:
            left -= weight
            if left < 0:
                return option
        return options[-1][0]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options, in random order."""
        rest = list(options)
        return [rest.pop(int(self.random() * len(rest))) for _ in range(count)]

    def rotation(self, steepest: float) -> tuple[float, float]:
        """(cos, sin) of an angle whose half-angle tangent is uniform in ±steepest.

        Rational in the tangent, so that no library sine, which differs between platforms, is needed.
        """
        tangent = self.uniform(-steepest, steepest)
        scale = 1.0 / (1.0 + tangent * tangent)
        return (1.0 - tangent * tangent) * scale, 2.0 * tangent * scale


def gaussian_noise(shape: tuple[int, ...], *entropy: int) -> np.ndarray:
    """float32 noise of mean 0 and variance 1: sums of four uniform 16-bit integers (Irwin-Hall)."""
    words = bit_generator(*entropy).random_raw(int(np.prod(shape)))
    sums = words.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int32)
    return ((sums - 131070).astype(np.float32) * np.float32((3.0**0.5) / 65536)).reshape(shape)
