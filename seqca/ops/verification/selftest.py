"""A check, on the user's own machine, of every operator on every backend that runs there."""

import torch

from ..shared.device import checked_device
from ..shared.dispatch import BACKENDS, refusal, use_backend
from ..shared.operator import OPERATORS, Operator
from .judge import cotangents, evaluate, judge, rounded

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def selftest(device: str | None = None, seed: int = 0) -> bool:
    """Judges every operator on every backend against the float64 reference, and prints a line for each.

    Outputs and gradients on small inputs, by the rule of `seqca.ops.verification.tolerance`. Takes seconds; kernels may
    have to be compiled first.

    Args:
        device: device type, of this machine; by default "cuda" where there is a GPU, else "cpu".
        seed: of the inputs.

    Returns:
        Whether everything that could run is right.

    Raises:
        ValueError: a device that torch cannot use here.
    """
    device = checked_device(device)
    passed = True
    for operator in OPERATORS.values():
        for backend in BACKENDS:
            if backend == "reference":
                continue
            for dtype in _DTYPES:
                outcome, right = _outcome(operator, backend, dtype, device, seed)
                passed &= right
                print(f"{operator.name:20} {backend:8} {str(dtype).removeprefix('torch.'):9} {outcome}")
    return passed


def _outcome(operator: Operator, backend: str, dtype: torch.dtype, device: str, seed: int) -> tuple[str, bool]:
    for name, sampler in operator.samples.items():
        generator = torch.Generator().manual_seed(seed)
        sample = rounded(sampler(63, 36, generator), dtype, device)
        reason = refusal(operator, backend, operator.describe(**sample.arguments))
        if reason is not None:
            return f"not run: {reason}", True
        gradients = cotangents(operator, sample, generator)
        try:
            with use_backend(backend):
                results = evaluate(operator.function, sample, gradients)
        except Exception as error:  # whatever a compiler or driver raises; the other checks still say something
            return f"FAILED on {name}, {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", False
        for verdict in judge(operator, sample, gradients, results):
            if not verdict.ok:
                return f"WRONG on {name}, {verdict}", False
    return f"right ({len(operator.samples)} samples, outputs and gradients)", True
