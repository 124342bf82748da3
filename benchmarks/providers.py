"""Who computes a case: every backend of the package, the eager reference, and torch.compile of the reference."""

import shutil
from collections.abc import Callable, Iterable
from typing import Any

from seqca.ops.shared.dispatch import BACKENDS, refusal
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.shared.operator import Call as OperatorCall

from .case import MODES, Contender, Field


def in_mode(name: str, mode: str) -> str:
    """The name of a contender in a mode, such as "reference, compiled"."""
    return name if mode == "eager" else f"{name}, {mode}"


def mode_refusal(mode: str, device: str, direction: str, modes: Iterable[str]) -> str | None:
    """Why a mode cannot be had, or None; in a mode of two halves, what stands against each."""
    reasons = []
    if "compiled" in mode and device == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
        reasons.append("torch.compile needs a C++ compiler here")
    if "graph" in mode and device != "cuda":
        reasons.append("CUDA graphs need a GPU")
    elif "graph" in mode and direction == "backward":
        reasons.append("a graph holds the forward pass too: see the pass both")
    if not reasons and mode not in modes:
        reasons.append("not in this set of cases (compiling takes longer than all else): see --full")
    return "; ".join(reasons) or None


def backend_refusal(operator: str, backend: str, call: OperatorCall) -> str | None:
    """Why a backend cannot take part, or None."""
    if operator not in OPERATORS:
        return f"this version of seqca has no operator {operator}"
    reason = refusal(OPERATORS[operator], backend, call)
    if reason is None and backend == "triton" and call.device == "cpu":
        return "runs here in Triton's interpreter, whose time says nothing"
    return reason


def operator_field(
    operator: str,
    reference: Callable[..., Any],
    call: OperatorCall,
    direction: str,
    modes: Iterable[str],
) -> Field:
    """The contenders of an operator.

    Args:
        operator: its name.
        reference: its plain mathematics, of the same arguments.
        call: what the choice of a backend depends on.
        direction: the pass.
        modes: those that this set of cases offers.
    """
    field = Field([], {})
    for mode in MODES:
        add(field, Contender(in_mode("reference", mode), reference, "reference", mode), call.device, direction, modes)
    for backend in BACKENDS:
        if backend == "reference":
            continue
        if (reason := backend_refusal(operator, backend, call)) is not None:
            field.absent[backend] = reason
        else:
            for mode in ("eager", "graph"):
                contender = Contender(in_mode(backend, mode), OPERATORS[operator].function, backend, mode)
                add(field, contender, call.device, direction, modes)
    return field


def add(field: Field, contender: Contender, device: str, direction: str, modes: Iterable[str]) -> None:
    """Adds a contender to the field, or to those absent."""
    reason = mode_refusal(contender.mode, device, direction, modes)
    if reason is None:
        field.contenders.append(contender)
    else:
        field.absent[contender.name] = reason
