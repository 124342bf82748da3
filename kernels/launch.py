"""Every Triton launch of the package is made here, or recorded instead."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch


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


_recorder: ContextVar[_Recorder | None] = ContextVar("seqca_launch_recorder", default=None)


@contextmanager
def record(running: bool = False) -> Iterator[list[Launch]]:
    """Collect launches instead of running them, to compile or count them; meta tensors will do as arguments.

    Args:
        running: run them too. What is collected can be started again by `start`, while its tensors are kept alive.
    """
    recorder = _Recorder([], running)
    token = _recorder.set(recorder)
    try:
        yield recorder.launches
    finally:
        _recorder.reset(token)


def start(x: Launch, device: torch.device) -> None:
    """Start a launch on the current stream of `device`."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        x.kernel[x.grid](**x.arguments, **x.options)


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, arguments: dict[str, Any], **options: int) -> None:
    """Start `kernel` on the current stream of `device`, or hand it to `record`.

    Multiplications and additions are fused, whatever the default of the Triton version. A thread may have as many
    registers as the architecture allows, or fewer by `maxnreg`, since the assembler, left to itself, spills some to fit
    in one program more. With more than the architecture allows a program of so many threads could not start.
    """
    registers = min(255, 65536 // (32 * options["num_warps"]), options.get("maxnreg", 255))
    made = Launch(kernel, grid, arguments, {"enable_fp_fusion": True, **options, "maxnreg": registers})
    recorder = _recorder.get()
    if recorder is not None:
        recorder.launches.append(made)
    if recorder is None or recorder.running:
        start(made, device)
