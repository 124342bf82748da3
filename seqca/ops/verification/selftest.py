"""A check, on the user's own machine, of every operator on every backend that runs there."""

from collections import Counter
from typing import NamedTuple

import torch

from ..shared.device import checked_device
from ..shared.dispatch import BACKENDS, refusal, use_backend
from ..shared.operator import OPERATORS, Operator
from .judge import cotangents, evaluate, judge, rounded

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def selftest(device: str | None = None, seed: int = 0) -> bool:
    """Judges every operator on every backend that it has against the float64 reference.

    Prints a line for each, then how many calls of each backend are right, wrong or not run, and last what that means.

    Outputs and gradients on small inputs, by the rule of `seqca.ops.verification.tolerance`. Takes a minute or two on a
    CPU; kernels may have to be compiled first.

    Args:
        device: device type, of this machine; by default "cuda" where there is a GPU, else "cpu".
        seed: of the inputs.

    Returns:
        Whether everything that could run is right.

    Raises:
        ValueError: a device that torch cannot use here.
    """
    device = checked_device(device)
    found: dict[str, Counter[str]] = {}
    for operator in OPERATORS.values():
        for backend in BACKENDS:
            if backend == "reference" or backend not in operator.backends:
                continue
            for dtype in _DTYPES:
                outcome = _outcome(operator, backend, dtype, device, seed)
                found.setdefault(backend, Counter())[outcome.state] += 1
                print(f"{operator.name:20} {backend:8} {str(dtype).removeprefix('torch.'):9} {outcome}")
    for backend, states in found.items():
        print(f"{backend}: {', '.join(f'{number} {state}' for state, number in states.items())}")
    right, wrong = (sum(states[state] for states in found.values()) for state in ("right", "wrong"))
    ran = f"All {right} that could run are right" if right else "Nothing could run"
    print(f"Wrong: {wrong} of {right + wrong} that ran" if wrong else ran)
    return not wrong


class _Outcome(NamedTuple):
    state: str
    """Right, wrong or not run."""
    detail: str

    def __str__(self) -> str:
        return f"{self.state} {self.detail}"


def _outcome(operator: Operator, backend: str, dtype: torch.dtype, device: str, seed: int) -> _Outcome:
    judged, refused = 0, None
    for name, sampler in operator.samples.items():
        generator = torch.Generator().manual_seed(seed)
        sample = rounded(sampler(63, 36, generator), dtype, device)
        reason = refusal(operator, backend, operator.describe(**sample.arguments))
        if reason is not None:
            refused = refused or f"sample {name!r}: {reason}"
            continue
        try:
            gradients = cotangents(operator, sample, generator)
            with use_backend(backend):
                results = evaluate(operator.function, sample, gradients)
            verdicts = list(judge(operator, sample, gradients, results))
        except Exception as error:  # whatever a compiler or driver raises; the other checks still say something
            message = (str(error).splitlines() or [""])[0]
            return _Outcome("wrong", f"on {name}, {type(error).__name__}: {message}")
        for verdict in verdicts:
            if not verdict.ok:
                return _Outcome("wrong", f"on {name}, {verdict}")
        judged += 1
    if not judged:
        return _Outcome("not run", f"on {refused}")
    left = f"; not run on {refused}" if refused else ""
    return _Outcome("right", f"on {judged} samples, outputs and gradients{left}")
