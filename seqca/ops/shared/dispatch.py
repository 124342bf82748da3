"""The choice of a backend, in one place for all operators.

A call runs on the first backend, in the order of `preferences.py`, that does not refuse it; `use_backend` or the
environment variable SEQCA_BACKEND (read once, at import) forces one instead.

The forced name is a plain global for the process, and an attribute of a `threading.local` for a thread that has
chosen for itself. torch.compile guards both, thread by thread, so a compiled function is compiled again after a switch.
It cannot trace a `ContextVar` (torch 2.11), nor a subclass of `threading.local` (torch 2.14 guards its attributes
wrongly), nor the question which thread this is: hence the mark on the thread that imports this module.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from .availability import cuda_refusal, triton_refusal
from .operator import Call, Operator
from .preferences import preference

BACKENDS = ("reference", "aten", "triton", "cuda")
"""Every backend: plain eager torch; fused algebra in torch operators; Triton; CUDA C++."""


class BackendUnavailable(RuntimeError):
    """A forced backend cannot run a call; the message says why."""


def _checked(name: str, argument: str) -> str:
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"{argument}: got {name!r}, expected one of {', '.join(('auto', *BACKENDS))}")
    return name


_of_process: str = _checked(os.environ.get("SEQCA_BACKEND", "auto"), "SEQCA_BACKEND")
_of_thread = threading.local()
_of_thread.is_main = True  # of the thread that runs this line
_of_thread.forced = None


def _own_choice() -> str | None:
    return getattr(_of_thread, "forced", None)


def _decides_for_the_process() -> bool:
    return getattr(_of_thread, "is_main", False)


class use_backend:
    """Forces a backend on every operator; "auto" gives the choice back.

    As a call it holds from then on; as a context manager it restores the previous choice on leaving:

        seqca.use_backend("aten")
        with seqca.use_backend("reference"):
            ...

    The main thread (the one that imported this package) decides for the process: for itself, for autograd's threads,
    which recompute checkpoints on a GPU, and for every thread that has not decided. Any other thread decides for itself
    alone. Blocks in several threads may therefore overlap. Coroutines of one thread must not `await` inside a block: as
    with `torch.no_grad`, the others would run under it.

    A gradient is computed by the backend of its forward call. Whether the backend can run is asked call by
    call, since it depends on the tensors; where it cannot, the operator raises `BackendUnavailable`.

    Args:
        name: `auto`, `reference`, `aten`, `triton` or `cuda`.

    Raises:
        ValueError: for any other name.
    """

    def __init__(self, name: str) -> None:
        global _of_process
        if _decides_for_the_process():
            self._previous: str | None = _of_process
            _of_process = _checked(name, "name")
        else:
            self._previous = _own_choice()
            _of_thread.forced = _checked(name, "name")

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _of_process
        if _decides_for_the_process():
            _of_process = self._previous or "auto"
        else:
            _of_thread.forced = self._previous


def forced_backend() -> str:
    """The backend that is forced on calls of this thread, or "auto"."""
    return _own_choice() or _of_process


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
    limit = operator.limits.get(backend)
    return reason or (None if limit is None else limit(call))


_recorded: list[tuple[str, Call]] | None = None


@contextmanager
def record_calls() -> Iterator[list[tuple[str, Call]]]:
    """Notes every call of an operator, (its name, the call), in order; in all threads of the process."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


def resolve(operator: Operator, call: Call, refusals: Mapping[str, str] | None = None) -> str:
    """The backend on which a call runs.

    Args:
        operator: whose call it is.
        call: what is asked.
        refusals: by backend, why it cannot run this call, beside what `refusal` says.

    Raises:
        BackendUnavailable: if a backend is forced and refuses the call.
    """
    if _recorded is not None:
        _recorded.append((operator.name, call))
    forced, own = forced_backend(), refusals or {}
    backends = preference(operator.name, call) if forced == "auto" else (forced,)
    reason: str | None = None
    for backend in backends:
        reason = own.get(backend) or refusal(operator, backend, call)
        if reason is None:
            return backend
    raise BackendUnavailable(f"{operator.name}: backend {backends[-1]!r} cannot run ({call}): {reason}")
