"""What a benchmark is made of: cases, the providers that compute the same function, and their inputs."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqca.ops.verification.draws import Allowance, Results

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
MODES = ("eager", "compiled", "max-autotune", "graph", "compiled, graph")
"""compiled: by torch.compile. max-autotune: by that mode of it, which on a GPU captures a CUDA graph itself.
graph: captured as a CUDA graph. compiled, graph: both."""
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

    @classmethod
    def of(cls, direction: str, forward: "Cost", backward: "Cost") -> "Cost":
        """That of a pass, or of both together."""
        chosen = {"forward": [forward], "backward": [backward], "both": [forward, backward]}[direction]
        return cls(*map(sum, zip(*chosen, strict=True)))


class Inputs(NamedTuple):
    """One set of arguments of a provider's function."""

    arguments: Mapping[str, Any]
    leaves: list[Tensor]
    """What is differentiated: arguments, or the parameters of a network."""
    gradients: list[Tensor] | None
    """Gradients of the outputs; None where the output is one scalar."""


class Expected(NamedTuple):
    """What a provider must compute on some fresh random inputs."""

    inputs: Inputs
    exact: Results
    """What the reference computes in higher precision."""
    allowance: Mapping[str, Allowance]
    """What its errors in the dtype of the case allow."""


@dataclass(frozen=True)
class Provider:
    """One way to compute a case."""

    name: str
    function: Callable[..., Any] = field(compare=False)
    """Of the arguments; returns a tensor or nested lists and tuples of tensors."""
    backend: str = "auto"
    """Forced while it runs."""
    mode: str = "eager"
    """One of `MODES`."""
    tuned: bool = False
    """Whether cuDNN tries its algorithms and takes the fastest, and products of float32 may be in TF32."""
    computes: str = ""
    """Which function, in the cases whose providers compute different ones."""
    leaves: list[Tensor] | None = field(default=None, compare=False)
    """What is differentiated, where it is not the inputs' leaves: a provider's own parameters."""
    arranged: Callable[[list[Tensor]], list[Tensor]] = field(default=lambda results: results, compare=False)
    """Its results in the order and shape of the reference's."""

    @property
    def compiled(self) -> bool:
        """Whether torch.compile makes the function."""
        return "compiled" in self.mode or self.autotuned

    @property
    def autotuned(self) -> bool:
        """Whether torch.compile tries several kernels and takes the fastest."""
        return self.mode == "max-autotune"

    @property
    def captured(self) -> bool:
        """Whether it is replayed from a CUDA graph."""
        return "graph" in self.mode


class Providers(NamedTuple):
    """The providers of a case, and those that cannot take part, with the reason."""

    available: list[Provider]
    unavailable: dict[str, str]

    def add(self, provider: Provider, device: str, direction: str, modes: Iterable[str]) -> None:
        """Adds a provider to those available, or else with the reason to the others."""
        reason = mode_refusal(provider.mode, device, direction, modes)
        if provider.tuned and device != "cuda":
            reason = "cuDNN and TF32 are of GPUs"
        if reason is None:
            self.available.append(provider)
        else:
            self.unavailable[provider.name] = reason


def in_mode(name: str, mode: str) -> str:
    """The name of a provider in a mode, such as "reference, compiled"."""
    return name if mode == "eager" else f"{name}, {mode}"


def mode_refusal(mode: str, device: str, direction: str, modes: Iterable[str]) -> str | None:
    """Why a mode cannot be had, or None; in a mode of two halves, what stands against each."""
    reasons = []
    if (
        ("compiled" in mode or mode == "max-autotune")
        and device == "cpu"
        and not any(map(shutil.which, ("g++", "clang++")))
    ):
        reasons.append("torch.compile needs a C++ compiler here")
    if "graph" in mode and device != "cuda":
        reasons.append("CUDA graphs need a GPU")
    elif "graph" in mode and direction == "backward":
        reasons.append("a graph holds the forward pass too: see the pass both")
    if not reasons and mode not in modes:
        reasons.append("not in this set of cases (compiling takes longer than all else): see --full")
    return "; ".join(reasons) or None


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

    @property
    def baseline(self) -> str:
        """The provider to which all others are related."""
        return "reference"

    def parameters(self) -> list[Tensor]:
        """Parameters and buffers, which are there anyway and do not count as kept for backward."""
        return []

    def left_out(self, inputs: Inputs) -> list[Tensor]:
        """What does not count as kept for backward: also those parameters that are drawn with the inputs."""
        return self.parameters()

    @abstractmethod
    def cost(self, provider: Provider) -> Cost:
        """What a provider cannot avoid, whatever it does."""

    @abstractmethod
    def providers(self) -> Providers:
        """The providers that can take part, and those that cannot."""

    @abstractmethod
    def inputs(self, generator: torch.Generator) -> Inputs:
        """A fresh random set of arguments on the device."""

    @abstractmethod
    def expected(self, provider: Provider, generator: torch.Generator) -> Expected:
        """What a provider must compute, on fresh random inputs; providers that compute the same share it."""

    @abstractmethod
    def norms(self, actual: Tensor, exact: Tensor) -> Any:
        """What the error of a result is judged by: a named tuple of numbers."""

    def judged(self, results: list[Tensor]) -> Results:
        """A provider's results as they are judged, by name."""
        return {f"result {i}": result for i, result in enumerate(results)}


@dataclass(frozen=True)
class Selection:
    """What a run is narrowed to. Each entry is a part of a name; an empty tuple narrows nothing."""

    operators: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Parts of the names of providers that are left out, the baseline excepted."""

    def takes(self, case: Case) -> bool:
        """Whether a case is selected."""
        return (
            _matches(self.operators, case.operator)
            and _matches(self.shapes, case.shape)
            and (not self.dtypes or case.dtype in self.dtypes)
            and (not self.directions or case.direction in self.directions)
        )

    def of(self, case: Case) -> Providers:
        """The selected providers of a case, and its baseline, without which no figure stands."""
        available, unavailable = case.providers()
        stays = (p.name == case.baseline or p.computes or self._takes_provider(p.name) for p in available)
        return Providers([p for p, kept in zip(available, stays, strict=True) if kept], unavailable)

    def _takes_provider(self, name: str) -> bool:
        return _matches(self.providers, name) and not any(part in name for part in self.without)


def _matches(parts: tuple[str, ...], name: str) -> bool:
    return not parts or any(part in name for part in parts)
