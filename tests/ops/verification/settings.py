"""All operators and samples in several dtypes, small, with the reference as a function of their inputs."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from seqca.ops.shared.operator import OPERATORS, Operator
from seqca.ops.shared.sample import Sample
from seqca.ops.verification.draws import (
    Allowance,
    Compute,
    Draw,
    Norms,
    allowances,
    as_drawn,
    drawn_from,
    moved,
    verdicts,
)
from seqca.ops.verification.judge import compute_of, cotangents, inputs_of, rounded
from seqca.ops.verification.tolerance import Verdict, errors


class Setting(NamedTuple):
    """A sample of an operator in a dtype."""

    operator: str
    sample: str
    dtype: torch.dtype
    tokens: int = 12
    channels: int = 5

    def __str__(self) -> str:
        return f"{self.operator}-{self.sample}-{self.dtype}".replace("torch.", "").replace(" ", "_")

    def drawn(self) -> "Drawn":
        """Its arguments."""
        generator, operator = Generator().manual_seed(self.tokens), OPERATORS[self.operator]
        sample = rounded(operator.samples[self.sample](self.tokens, self.channels, generator), self.dtype)
        return Drawn(operator, sample, cotangents(operator, sample, generator))


class Drawn:
    """Arguments, and what the reference makes of them."""

    def __init__(self, operator: Operator, sample: Sample, gradients: list[Tensor]) -> None:
        self.operator, self.sample, self.gradients = operator, sample, gradients

    @property
    def inputs(self) -> list[Tensor]:
        """What the reference is a function of."""
        return as_drawn([*inputs_of(self.sample), *self.gradients])

    @property
    def compute(self) -> Compute:
        """The reference."""
        return compute_of(self.operator, self.sample)

    @property
    def norms(self) -> Norms:
        """Of the operator's results."""
        return partial(errors, channel_axis=self.operator.channel_axis)

    @cached_property
    def allowance(self) -> dict[str, Allowance]:
        """What the rule allows each result."""
        return allowances(drawn_from(self.compute, self.inputs), self.norms)

    def draws(self, seed: int) -> Callable[[], Draw]:
        """A source of fresh draws: of the reference; in float64, where it serves as exact, of torch algebra."""
        if inputs_of(self.sample)[0].dtype != torch.float64:
            return drawn_from(self.compute, self.inputs, seed)
        generator, fused = Generator().manual_seed(seed), compute_of(self.operator, self.sample, "aten")

        def draw() -> Draw:
            near = [moved(x, generator).double() for x in self.inputs]
            return Draw(fused(near), self.compute(near))

        return draw

    def judged(self, draw: Draw) -> list[Verdict]:
        """Every result of a draw, as if a kernel had computed it."""
        return verdicts(draw.rough, draw.exact, self.allowance, self.norms)


def settings(*dtypes: torch.dtype) -> list[Setting]:
    """All operators and samples in some dtypes."""
    return [
        Setting(name, sample, dtype)
        for name, operator in OPERATORS.items()
        for sample in operator.samples
        for dtype in dtypes
    ]


SETTINGS = settings(torch.float32, torch.bfloat16, torch.float16)
