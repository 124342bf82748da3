"""What the machine can do at best, measured in the same run as the cases."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from .case import DTYPES, Cost
from .environment import last_level_cache
from .execution import TimedCall
from .timing import Clock, clock_for

COPY, MATRIX, EXPONENTIALS = "copy bandwidth", "matrix rate", "exponential rate"


class Utilisation(NamedTuple):
    """How near a time is to the nearest limit."""

    limit: str
    floor: float
    """Seconds that the limit allows at best."""
    fraction: float
    """Of the limit that the time reaches."""


def measure_limits(device: str, dtypes: list[str]) -> dict[str, Any]:
    """Copy bandwidth in bytes/s, matrix rate by dtype in operations/s, exponentials/s; and how each was measured."""
    clock = clock_for(device)
    exponentials, how = _exponentials(device, clock)
    return {
        COPY: {"value": _copy(device, clock), "how": "copy between two buffers past the cache, read plus written"},
        MATRIX: {
            dtype: {"value": _matrix(device, dtype, clock), "how": "square torch matrix product, random operands"}
            for dtype in dtypes
        },
        EXPONENTIALS: {"value": exponentials, "how": how},
    }


def utilisation(cost: Cost, dtype: str, limits: Mapping[str, Any], seconds: float) -> Utilisation:
    """The limit that allows a case the least, and the fraction of it that a time reaches."""
    floors = {
        COPY: cost.bytes / limits[COPY]["value"],
        MATRIX: cost.operations / limits[MATRIX][dtype]["value"],
        EXPONENTIALS: cost.exponentials / limits[EXPONENTIALS]["value"],
    }
    nearest = max(floors, key=lambda name: floors[name])
    return Utilisation(nearest, floors[nearest], floors[nearest] / seconds)


def _rate(work: Callable[[], Any], amount: float, clock: Clock, repeats: int = 10) -> float:
    call = TimedCall(lambda: None, lambda _: work())
    return amount / float(np.median(clock.block([call] * (repeats + 2))[2:]))


def _copy(device: str, clock: Clock) -> float:
    elements = 4 * last_level_cache(device)
    source = torch.empty(elements, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return _rate(lambda: target.copy_(source), 2 * elements, clock)


def _matrix(device: str, dtype: str, clock: Clock) -> float:
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(DTYPES[dtype]) for _ in range(2))
    out = torch.empty_like(a)
    return _rate(lambda: torch.mm(a, b, out=out), 2 * side**3, clock)


def _exponentials(device: str, clock: Clock) -> tuple[float, str]:
    if device == "cuda":
        from .exponential_kernel import REPEATS, repeated_exponentials

        x = torch.rand(2**24, device=device)
        return _rate(lambda: repeated_exponentials(x), x.numel() * REPEATS, clock), "Triton exp2 in registers, float32"
    x = torch.rand(2**16)  # stays in the cache, so that memory does not count
    out = torch.empty_like(x)
    repeats = 100

    def work() -> None:
        for _ in range(repeats):
            torch.exp(x, out=out)

    return _rate(work, x.numel() * repeats, clock), "torch exp of float32 in the cache"
