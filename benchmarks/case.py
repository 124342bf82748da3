"""What a benchmark is made of: cases, the contenders that compute the same function, and inputs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .execution import Execution

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
MODES = ("eager", "compiled", "graph", "compiled, graph")
"""compiled: by torch.compile. graph: captured as a CUDA graph. compiled, graph: both."""
DIRECTIONS = ("forward", "backward", "both")
"""forward: no gradient is needed. backward: the gradients alone, of a forward pass outside the measurement.
both: forward pass and gradients, as in training."""


class Cost(NamedTuple):
    """What a case cannot avoid, counted from its shapes."""

    bytes: int
    """Every input read once and every output written once, per pass."""
    operations: int
    """Multiplications and additions of the matrix products, two for each pair."""
    exponentials: int
    """Exponentials and logarithms of single elements."""


class Inputs(NamedTuple):
    """One set of arguments of a contender's function."""

    arguments: Mapping[str, Any]
    leaves: list[Tensor]
    """What is differentiated: arguments, or the parameters of a network."""
    gradients: list[Tensor] | None
    """Gradients of the outputs; None where the output is one scalar."""


class Truth(NamedTuple):
    """What is right on some fresh random inputs."""

    inputs: Inputs
    rough: list[Tensor]
    """The results of the reference in the dtype of the case."""
    exact: list[Tensor]
    """Its results in higher precision."""


class Check(NamedTuple):
    """The outcome of a correctness check."""

    ok: bool
    worst: float
    """The largest error as a fraction of what it may be."""
    what: str
    """The result that has it."""


def fraction(found: float, bound: float) -> float:
    """An error as a fraction of what it may be; a billion where there is no such number, NaN for one."""
    return found / bound if isfinite(found) and bound > 0 else (0.0 if found == 0 else 1e9)


@dataclass(frozen=True)
class Contender:
    """One way to compute a case."""

    name: str
    function: Callable[..., Any] = field(compare=False)
    """Of the arguments; returns a tensor or nested lists and tuples of tensors."""
    backend: str = "auto"
    """Forced while it runs."""
    mode: str = "eager"
    """One of `MODES`."""
    computes: str = ""
    """Which function, in the cases whose contenders compute different ones."""

    @property
    def compiled(self) -> bool:
        """Whether torch.compile makes the function."""
        return "compiled" in self.mode

    @property
    def captured(self) -> bool:
        """Whether it is replayed from a CUDA graph."""
        return "graph" in self.mode


class Field(NamedTuple):
    """Who takes part in a case, and who does not, with the reason."""

    contenders: list[Contender]
    absent: dict[str, str]


@dataclass(frozen=True)
class Case(ABC):
    """Operator × shape × dtype × pass."""

    operator: str
    shape: str
    dtype: str
    direction: str
    device: str
    """Device type."""
    sizes: Mapping[str, int]
    """Numbers that describe the shape: tokens, channels, tasks and others."""

    @property
    def name(self) -> str:
        """Unique among the cases of a device."""
        return f"{self.operator}/{self.shape}/{self.dtype}/{self.direction}"

    def parameters(self) -> list[Tensor]:
        """Parameters and buffers, which are there anyway and do not count as kept for backward."""
        return []

    @abstractmethod
    def cost(self, contender: Contender) -> Cost:
        """What a contender cannot avoid, whatever it does."""

    @abstractmethod
    def contenders(self) -> Field:
        """Contenders, and those that are absent."""

    @abstractmethod
    def inputs(self, generator: torch.Generator) -> Inputs:
        """A fresh random set of arguments on the device."""

    @abstractmethod
    def truth(self, contender: Contender, generator: torch.Generator) -> Truth:
        """What a contender must compute, on fresh random inputs; contenders that compute the same share it."""

    @abstractmethod
    def check(self, execution: "Execution", truth: Truth) -> Check:
        """Whether a contender computes that."""
