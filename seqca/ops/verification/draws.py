"""Draws of the reference's error, and results judged by them: the entry that tests, `selftest` and benchmarks share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from .tolerance import FEW, MANY, Verdict, agree, allowed, errors, read, root_mean_square

Results = dict[str, Tensor]
"""Outputs and gradients by a name made for reading."""

Compute = Callable[[Sequence[Tensor]], Results]
"""The reference: from inputs, incoming gradients among them, in their dtype."""

Norms = Callable[[Tensor, Tensor], Any]
"""Of the error of a result against the exact one: a named tuple of tensors that hold one number, such as `Errors`."""

_BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


class Draw(NamedTuple):
    """One run of the reference on inputs of its own."""

    rough: Results
    """In the dtype under test."""
    exact: Results
    """In float64, of the same inputs."""


class Allowance(NamedTuple):
    """What the draws of the reference allow one result, in each norm."""

    reference: tuple[float, ...]
    """For errors like the reference's own, see `allowed`."""
    rounding: tuple[float, ...]
    """For rounding the exact result once."""
    typical: tuple[float, ...]
    """No allowance, but what it is related to: the root mean square of the draws, or the rounding if that is larger."""


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
    """The values of a compact tensor, each one unit in its last place larger or smaller or as it was, at random.

    Zeros stay; values that share their memory move together. The generator may be on another device.
    """
    for axis in range(x.ndim):
        if x.stride(axis) == 0 and x.shape[axis] > 1:
            return moved(x.narrow(axis, 0, 1), generator).expand(x.shape)
    bits = _BITS[x.dtype]
    steps = torch.randint(-1, 2, x.shape, generator=_on(x, generator), dtype=bits, device=x.device)
    neighbour = (x.view(bits) + steps).view(x.dtype)
    return torch.empty_like(x).copy_(torch.where((x != 0) & neighbour.isfinite(), neighbour, x))


def _on(x: Tensor, generator: Generator) -> Generator:
    """The generator, or one on the device of x, seeded by it: copying random numbers takes longer than drawing them."""
    if generator.device == x.device:
        return generator
    return Generator(x.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


@contextmanager
def plain_torch() -> Iterator[None]:
    """Where the reference runs: with products of float32 in float32, and whatever operations torch has.

    Deterministic mode refuses some of those on a GPU, nll_loss2d among them.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def exact_results(compute: Compute, inputs: Sequence[Tensor]) -> Results:
    """What the reference computes in float64."""
    with plain_torch():
        return compute([x.detach().double() for x in inputs])


def drawn_from(compute: Compute, inputs: Sequence[Tensor], seed: int = 0) -> Callable[[], Draw]:
    """Draws of the reference on inputs moved at random by a unit in the last place.

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


def allowances(draw: Callable[[], Draw], norms: Norms, counts: Sequence[int] = (FEW, MANY)) -> dict[str, Allowance]:
    """What the reference's draws allow each of its results.

    Args:
        draw: makes one.
        norms: that errors are measured in.
        counts: so many draws, or where they scatter the next number; each a key of `DEVIATIONS`.
    """
    of_reference: dict[str, list[tuple[float, ...]]] = {}
    of_rounding: dict[str, list[tuple[float, ...]]] = {}
    made, signs = 0, Generator().manual_seed(0)
    for count in counts:
        for _ in range(made, count):
            rough, exact = draw()
            found = [norms(x, exact[what]) for what, x in rough.items()]
            found += [norms(_rounded(exact[what], x.dtype, signs), exact[what]) for what, x in rough.items()]
            numbers = read(found)
            for what, of_result, of_rounded in zip(rough, numbers, numbers[len(rough) :], strict=False):
                of_reference.setdefault(what, []).append(of_result)
                of_rounding.setdefault(what, []).append(of_rounded)
        made = count
        if all(agree(norm) for draws in of_reference.values() for norm in zip(*draws, strict=True)):
            break
    return {what: _allowance(draws, of_rounding[what]) for what, draws in of_reference.items()}


def _allowance(draws: Sequence[tuple[float, ...]], roundings: Sequence[tuple[float, ...]]) -> Allowance:
    by_norm = list(zip(*draws, strict=True))
    rounding = tuple(map(root_mean_square, zip(*roundings, strict=True)))
    typical = tuple(max(root_mean_square(norm), of) for norm, of in zip(by_norm, rounding, strict=True))
    return Allowance(tuple(map(allowed, by_norm)), rounding, typical)


def _rounded(exact: Tensor, dtype: torch.dtype, signs: Generator) -> Tensor:
    """A result off by half a unit in the last place of a dtype, up or down at random, in every element.

    Rounding costs no more. What it does cost says little: draws whose results move by less than such a unit, as losses
    do, all round by the same amount.
    """
    exact, limits = exact.double(), torch.finfo(dtype)
    _, exponent = torch.frexp(exact)
    unit = torch.ldexp(torch.full_like(exact, limits.eps / 2), exponent).clamp(min=limits.smallest_normal * limits.eps)
    up = torch.randint(0, 2, exact.shape, generator=_on(exact, signs), device=exact.device)
    return torch.where(exact == 0, exact, exact + (up - 0.5) * unit)


def verdict(what: str, actual: Tensor, exact: Tensor, allowance: Allowance, norms: Norms) -> Verdict:
    """A result against the exact one.

    There is nothing more exact than float64 to judge it by. So its draws are those in float32, scaled by the ratio of
    the roundings; and since what serves as exact errs like the reference itself, one and a half times as much as
    otherwise is allowed, and two roundings.
    """
    reference, roundings = 1.0, 1.0
    if actual.dtype == torch.float64:
        scale = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        reference, roundings = 1.5 * scale, 2 * scale
    (found,) = read([norms(actual, exact)])
    bound = (reference * a + roundings * b for a, b in zip(allowance.reference, allowance.rounding, strict=True))
    return Verdict(what, found, type(found)(*bound))


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
    return [verdict(what, x, exact[what], allowance[what], norms) for what, x in results.items()]
