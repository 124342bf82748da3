"""Draws of the reference's error, and results judged by them: the entry that tests, `selftest` and benchmarks share."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from .precision import without_tf32
from .tolerance import DRAWS, Verdict, errors, multiple_allowed, read, typical_error

Results = dict[str, Tensor]
"""Outputs and gradients by a name made for reading."""

Compute = Callable[[Sequence[Tensor]], Results]
"""The reference: from inputs, incoming gradients among them, in their dtype."""

Norms = Callable[[Tensor, Tensor], Any]
"""Of the error of a result against the exact one: a named tuple of tensors that hold one number, such as `Errors`."""

_BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}

_UNITS = {torch.float32: 1024, torch.float16: 1, torch.bfloat16: 1}
"""In the last place, by which inputs are moved at most. If float32 numbers moved by one, the sum of many would move by
less than one of its own: the draws of a loss would all round alike."""


class Draw(NamedTuple):
    """One run of the reference on inputs of its own."""

    rough: Results
    """In the dtype under test."""
    exact: Results
    """In float64, of the same inputs."""


class Allowance(NamedTuple):
    """What the draws of the reference allow one result."""

    typical: tuple[float, ...]
    """Error in each norm, see `typical_error`."""
    multiple: float
    """Of the typical error that is allowed."""
    dtype: torch.dtype
    """That the reference gives the result in."""


def compact(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The same values without gaps in memory, in the order in which they lie there; in another dtype, if one is given.

    The order is kept because it decides in which order torch sums. Dimensions of stride 0 stay expanded: that their
    values are the same is part of what the inputs are.
    """
    for axis in range(x.ndim):
        if x.stride(axis) == 0 and x.shape[axis] > 1:
            return compact(x.narrow(axis, 0, 1), dtype).expand(x.shape)
    return torch.empty_like(x, dtype=dtype, requires_grad=False).copy_(x.detach())


def moved(x: Tensor, generator: Generator) -> Tensor:
    """The values of a compact tensor, each moved up or down at random.

    By at most a unit in the last place in half precision, 1024 in float32. Zeros stay; values that share their memory
    move together. The generator may be on another device.
    """
    for axis in range(x.ndim):
        if x.stride(axis) == 0 and x.shape[axis] > 1:
            return moved(x.narrow(axis, 0, 1), generator).expand(x.shape)
    bits, units = _BITS[x.dtype], _UNITS[x.dtype]
    steps = torch.randint(-units, units + 1, x.shape, generator=_on(x, generator), dtype=bits, device=x.device)
    neighbour = (x.view(bits) + steps).view(x.dtype)
    return torch.empty_like(x).copy_(torch.where((x != 0) & neighbour.isfinite(), neighbour, x))


def _on(x: Tensor, generator: Generator) -> Generator:
    """The generator, or one on the device of x, seeded by it: copying random numbers takes longer than drawing them."""
    if generator.device == x.device:
        return generator
    return Generator(x.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


@contextmanager
def plain_torch() -> Iterator[None]:
    """Where the reference runs: without TF32, and with whatever operations torch has.

    Deterministic mode refuses some of those on a GPU, nll_loss2d among them.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        with without_tf32():
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def exact_results(compute: Compute, inputs: Sequence[Tensor]) -> Results:
    """What the reference computes in float64."""
    with plain_torch():
        return compute([x.detach().double() for x in inputs])


def drawn_from(compute: Compute, inputs: Sequence[Tensor], seed: int = 0) -> Callable[[], Draw]:
    """Draws of the reference on inputs moved at random.

    Args:
        compute: the reference.
        inputs: as `as_drawn` makes them.
        seed: of the moves.
    """
    generator = Generator().manual_seed(seed)

    def draw() -> Draw:
        near = [moved(x, generator) for x in inputs]
        with plain_torch():
            return Draw(compute(near), compute([x.double() for x in near]))

    return draw


def as_drawn(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Inputs as the reference gets them, before they are moved: compact, and float32 for float64."""
    return [compact(x, torch.float32 if x.dtype == torch.float64 else x.dtype) for x in inputs]


def allowances(draw: Callable[[], Draw], norms: Norms, draws: int = DRAWS) -> dict[str, Allowance]:
    """What the reference's draws allow each of its results.

    Args:
        draw: makes one.
        norms: that errors are measured in.
        draws: how many, an even number of at most 36; the fewer, the more is allowed.
    """
    of_reference: dict[str, list[tuple[float, ...]]] = {}
    of_rounding: dict[str, list[tuple[float, ...]]] = {}
    dtypes: dict[str, torch.dtype] = {}
    signs = Generator().manual_seed(0)
    for _ in range(draws):
        rough, exact = draw()
        dtypes.update({what: x.dtype for what, x in rough.items()})
        found = [norms(x, exact[what]) for what, x in rough.items()]
        found += [norms(_rounded(exact[what], x.dtype, signs), exact[what]) for what, x in rough.items()]
        numbers = read(found)
        for what, of_result, of_rounded in zip(rough, numbers, numbers[len(rough) :], strict=False):
            of_reference.setdefault(what, []).append(of_result)
            of_rounding.setdefault(what, []).append(of_rounded)
    return {
        what: Allowance(
            tuple(map(typical_error, zip(*found, strict=True), zip(*of_rounding[what], strict=True))),
            multiple_allowed(draws),
            dtypes[what],
        )
        for what, found in of_reference.items()
    }


def _rounded(exact: Tensor, dtype: torch.dtype, signs: Generator) -> Tensor:
    """A result off by half a unit in the last place of a dtype, up or down at random, in every element: rounding costs
    no more."""
    exact, limits = exact.double(), torch.finfo(dtype)
    power_of_two = exact.view(torch.int64).bitwise_and(0x7FF << 52).view(torch.float64)  # not above the value
    half_a_unit = power_of_two.mul_(limits.eps / 2).clamp_(min=limits.smallest_normal * limits.eps / 2)
    up = torch.randint(0, 2, exact.shape, generator=_on(exact, signs), dtype=torch.int8, device=exact.device)
    return half_a_unit.mul_(up.mul_(2).sub_(1)).mul_(exact != 0).add_(exact)


def verdict(what: str, actual: Tensor, exact: Tensor, allowance: Allowance, norms: Norms) -> Verdict:
    """A result against the exact one.

    There is nothing more exact than float64 to judge it by. So its draws are those in float32, scaled by the ratio of
    the roundings; and what serves as exact errs like the result, so that the difference may be √2 times as large. That
    of a channel's mean may be as large as that of an element, since what serves as exact has roundings that all
    elements share, such as of a weight that is computed from labels.
    """
    bound = [allowance.multiple * typical for typical in allowance.typical]
    if actual.dtype == torch.float64:
        scale = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        bound = [math.sqrt(2) * scale * max(bound)] * len(bound)
    (found,) = read([norms(actual, exact)])
    return Verdict(what, found, type(found)(*bound))


def verdicts(results: Results, exact: Results, allowance: Mapping[str, Allowance], norms: Norms) -> list[Verdict]:
    """Every result, see `verdict`.

    Raises:
        ValueError: if they are not those of the reference, or one is neither in its dtype nor in float64.
    """
    if results.keys() != exact.keys():
        raise ValueError(f"results: got {', '.join(results)}, expected {', '.join(exact)}")
    for what, x in results.items():
        if x.dtype not in (allowance[what].dtype, torch.float64):
            raise ValueError(f"{what}: got {x.dtype}, expected {allowance[what].dtype} or torch.float64")
    return [verdict(what, x, exact[what], allowance[what], norms) for what, x in results.items()]


def judged(compute: Compute, inputs: Sequence[Tensor], results: Results, channel_axis: int = -1) -> list[Verdict]:
    """Results, by the tolerance rule.

    Args:
        compute: the reference, by the same names as the results.
        inputs: that the results were computed from, in the dtype under test; float64 ones hold float32 values.
        results: under judgement.
        channel_axis: of every result, for the mean error per channel.
    """
    norms = partial(errors, channel_axis=channel_axis)
    exact, allowance = exact_results(compute, inputs), allowances(drawn_from(compute, as_drawn(inputs)), norms)
    return verdicts(results, exact, allowance, norms)
