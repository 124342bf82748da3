"""Every Triton launch of the package is made here, or recorded instead."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

import torch


class ByArchitecture(NamedTuple):
    """A launch option where no number is best on all GPUs, by compute capability."""

    default: int
    """Where nothing else is said: with it no registers spill on any."""
    sm_80: int | None = None
    sm_90: int | None = None
    sm_100: int | None = None

    def on(self, architecture: int) -> int:
        """That of a compute capability such as 90."""
        own = getattr(self, f"sm_{architecture}", None)
        return self.default if own is None else own

    def __repr__(self) -> str:
        own = [f"{name}={x}" for name, x in self._asdict().items() if name != "default" and x is not None]
        return f"ByArchitecture({', '.join([str(self.default), *own])})"


class Launch(NamedTuple):
    """What a kernel is started with."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


class _Recorder(NamedTuple):
    launches: list[Launch]
    running: bool
    """Whether launches are run besides."""
    architecture: int | None
    """Whose options they have, instead of the device's."""


_recorder: ContextVar[_Recorder | None] = ContextVar("seqca_launch_recorder", default=None)


@contextmanager
def record(running: bool = False, architecture: int | None = None) -> Iterator[list[Launch]]:
    """Collect launches instead of running them, to compile or count them; meta tensors will do as arguments.

    Args:
        running: run them too. What is collected can be started again by `start`, while its tensors are kept alive.
        architecture: the compute capability, such as 90, whose options launches have; that of the device by default.
    """
    recorder = _Recorder([], running, architecture)
    token = _recorder.set(recorder)
    try:
        yield recorder.launches
    finally:
        _recorder.reset(token)


def start(x: Launch, device: torch.device) -> None:
    """Start a launch on the current stream of `device`."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        x.kernel[x.grid](**x.arguments, **x.options)


@lru_cache
def architecture_of(device: torch.device) -> int:
    """The compute capability of a GPU, such as 90, and 0 of anything else."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    device: torch.device,
    arguments: dict[str, Any],
    **options: int | ByArchitecture,
) -> None:
    """Start `kernel` on the current stream of `device`, or hand it to `record`.

    Multiplications and additions are fused, whatever the default of the Triton version. A thread may have as many
    registers as the architecture allows, or fewer by `maxnreg`, since the assembler, left to itself, spills some to fit
    in one program more. With more than the architecture allows a program of so many threads could not start.
    """
    recorder = _recorder.get()
    given = recorder.architecture if recorder else None
    architecture = architecture_of(device) if given is None else given
    chosen = {name: x.on(architecture) if isinstance(x, ByArchitecture) else x for name, x in options.items()}
    registers = min(255, 65536 // (32 * chosen["num_warps"]), chosen.get("maxnreg", 255))
    made = Launch(kernel, grid, arguments, {"enable_fp_fusion": True, **chosen, "maxnreg": registers})
    if recorder is not None:
        recorder.launches.append(made)
    if recorder is None or recorder.running:
        start(made, device)
