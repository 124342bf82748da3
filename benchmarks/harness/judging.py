"""Whether results are right: the one function through which every case is judged."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from torch import Tensor

from seqca.ops.verification.draws import Allowance, Norms, Results, verdicts


class Check(NamedTuple):
    """The outcome of a correctness check."""

    ok: bool
    worst: float
    """The largest error as a fraction of what it may be."""
    what: str
    """The result that has it."""


class RelativeError(NamedTuple):
    """The error of a tensor as one vector, such as the gradient of a part of the network."""

    relative: Any
    """In the Euclidean norm, divided by that of the exact result."""


def relative_error(actual: Tensor, exact: Tensor) -> RelativeError:
    """The error of a result as one vector."""
    return RelativeError((actual.double() - exact.double()).norm() / exact.double().norm())


def judge(results: Results, exact: Results, allowance: Mapping[str, Allowance], norms: Norms) -> Check:
    """Results one by one, by the tolerance rule of the tests; the worst counts.

    Args:
        results: of a provider.
        exact: of the reference in higher precision, on the same inputs.
        allowance: what `draws.allowances` found, in the same norms.
        norms: that errors are measured in.
    """
    checks = [
        Check(judged.ok, max(map(fraction, judged.found, judged.bound)), str(judged))
        for judged in verdicts(results, exact, allowance, norms)
    ]
    return max([check for check in checks if not check.ok] or checks, key=lambda check: check.worst)


def fraction(found: float, bound: float) -> float:
    """An error as a fraction of what it may be; a billion where there is no such number, NaN for one."""
    return found / bound if isfinite(found) and bound > 0 else (0.0 if found == 0 else 1e9)
