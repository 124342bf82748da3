"""The choice of a backend, in one place for all operators.

A call runs on the first backend, in the order of `choices.py`, that does not refuse it; `use_backend` or the
environment variable SEQCA_BACKEND (read once, at import) forces one instead. The forced name is a plain
global of this module: torch.compile guards it, so a compiled function is compiled again after a switch.
"""

import os
from types import TracebackType

from .availability import cuda_refusal, triton_refusal
from .choices import preference
from .operator import Call, Operator

BACKENDS = ("reference", "aten", "triton", "cuda")
"""Every backend: plain eager torch; fused algebra in torch operators; Triton; CUDA C++."""


class BackendUnavailable(RuntimeError):
    """A forced backend cannot run a call; the message says why."""


def _checked(name: str, argument: str) -> str:
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"{argument}: got {name!r}, expected one of {', '.join(('auto', *BACKENDS))}")
    return name


_forced: str = _checked(os.environ.get("SEQCA_BACKEND", "auto"), "SEQCA_BACKEND")


class use_backend:
    """Forces a backend on every operator of the process; "auto" gives the choice back.

    As a call it holds from then on; as a context manager it restores the previous choice on leaving:

        seqca.use_backend("aten")
        with seqca.use_backend("reference"):
            ...

    A gradient is computed by the backend of its forward call. Whether the backend can run is asked call by
    call, since it depends on the tensors; where it cannot, the operator raises `BackendUnavailable`.

    Args:
        name: `auto`, `reference`, `aten`, `triton` or `cuda`.

    Raises:
        ValueError: for any other name.
    """

    def __init__(self, name: str) -> None:
        global _forced
        self._previous = _forced
        _forced = _checked(name, "name")

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _forced
        _forced = self._previous


def forced_backend() -> str:
    """The backend that is forced, or "auto"."""
    return _forced


def refusal(operator: Operator, backend: str, call: Call) -> str | None:
    """Why a backend cannot run a call, or None."""
    if backend == "reference":
        return None
    if backend not in operator.backends:
        return f"{operator.name} has no such implementation"
    reason = None
    if backend == "triton":
        reason = triton_refusal(call)
    elif backend == "cuda":
        reason = cuda_refusal(call)
    return reason or operator.backends[backend].limit(call)


def resolve(operator: Operator, call: Call) -> str:
    """The backend on which a call runs.

    Raises:
        BackendUnavailable: if a backend is forced and refuses the call.
    """
    if _forced != "auto":
        reason = refusal(operator, _forced, call)
        if reason is not None:
            raise BackendUnavailable(f"{operator.name}: backend {_forced!r} cannot run ({call}): {reason}")
        return _forced
    for backend in preference(operator.name, call):
        if refusal(operator, backend, call) is None:
            return backend
    return "reference"
