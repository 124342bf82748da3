"""All operators and samples in several dtypes, small, with the reference as a function of their inputs."""

from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from seqca.ops.shared.operator import OPERATORS, Operator
from seqca.ops.shared.sample import Sample
from seqca.ops.verification.draws import Allowance, Compute, Draw, Norms, allowances, as_drawn, drawn_from
from seqca.ops.verification.judge import cotangents, inputs_of, reference_of, rounded
from seqca.ops.verification.tolerance import errors, read

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
        return reference_of(self.operator, self.sample)

    @property
    def norms(self) -> Norms:
        """Of the operator's results."""
        return partial(errors, channel_axis=self.operator.channel_axis)

    @cached_property
    def allowance(self) -> dict[str, Allowance]:
        """What the rule allows each result."""
        return allowances(self.draws(0), self.norms)

    def draws(self, seed: int) -> Any:
        """A source of fresh draws."""
        return drawn_from(self.compute, self.inputs, seed)

    def found(self, draw: Draw) -> dict[str, list[tuple[float, float]]]:
        """Of every result the errors and what they may be, in each norm."""
        norms = read([self.norms(x, draw.exact[what]) for what, x in draw.rough.items()])
        return {
            what: [
                (error, self.allowance[what].multiple * typical)
                for error, typical in zip(norm, self.allowance[what].typical, strict=True)
            ]
            for what, norm in zip(draw.rough, norms, strict=True)
        }


SETTINGS = [
    Setting(name, sample, dtype)
    for name, operator in OPERATORS.items()
    for sample in operator.samples
    for dtype in DTYPES
]
