"""Whether results are right: the one function through which every case is judged."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from seqca.ops.verification.tolerance import Verdict, allowed, errors


class Check(NamedTuple):
    """The outcome of a correctness check."""

    ok: bool
    worst: float
    """The largest error as a fraction of what it may be."""
    what: str
    """The result that has it."""


def judge(
    results: Sequence[Tensor],
    rough: Sequence[Tensor],
    exact: Sequence[Tensor],
    dtype: torch.dtype,
    channel_axis: int | None,
) -> Check:
    """Results one by one; the worst counts.

    Args:
        results: of a provider.
        rough: of the reference in the same dtype.
        exact: of the reference in higher precision.
        dtype: of the results.
        channel_axis: where the results have their channels, for the tolerance rule of the tests
            (`seqca.ops.verification.tolerance`). None: each result is one vector, such as the gradient of a part of the
            network, and the relative error in the Euclidean norm may be twice the reference's and that of rounding.
    """
    checks = []
    for i, (result, of_dtype, of_exact) in enumerate(zip(results, rough, exact, strict=True)):
        if channel_axis is None:
            # A rounding has a random sign, and a single number's may be zero: eps/2 is its bound.
            bound = 2 * _relative(of_dtype, of_exact) + torch.finfo(dtype).eps / 2
            found = _relative(result, of_exact)
            worst, ok = fraction(found, bound), found <= bound
            what = f"result {i}: relative error {found:.3g} (allowed {bound:.3g})"
        else:
            verdict = Verdict(
                f"result {i}",
                errors(result, of_exact, channel_axis),
                allowed(of_dtype, of_exact, dtype, channel_axis),
            )
            worst, ok, what = max(map(fraction, verdict.found, verdict.bound)), verdict.ok, str(verdict)
        checks.append(Check(ok, worst, what))
    return max([check for check in checks if not check.ok] or checks, key=lambda check: check.worst)


def fraction(found: float, bound: float) -> float:
    """An error as a fraction of what it may be; a billion where there is no such number, NaN for one."""
    return found / bound if isfinite(found) and bound > 0 else (0.0 if found == 0 else 1e9)


def _relative(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact.double()).norm() / exact.double().norm())
