"""Compiles the Triton kernels of a training step in several processes, into the cache that all share.

Compiled one after the other as the first step meets them, they take a minute and more.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from inspect import signature
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
import triton.language as tl
from seqca.kernels.launch import Launch
from torch import Tensor

from benchmarks.cases.shapes import Dataset, nyud
from benchmarks.launches import followed
from seqca.ops.shared.device import checked_device


class Compilation(NamedTuple):
    """What one process compiles; tensors are given by their dtypes."""

    module: str
    kernel: str
    arguments: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.compilation", description=__doc__)
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--dry", action="store_true", help="on a CPU: a small step, and nothing is compiled")
    options = parser.parse_args()
    start, data = time.monotonic(), nyud(8)
    if options.dry:
        data = data._replace(batch=2, height=64, width=64)
    found = compilations(data, torch.bfloat16)
    print(f"{len(found)} to compile, {time.monotonic() - start:.0f} s", flush=True)
    if checked_device(None) == "cpu":
        return
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        failures = [message for message in pool.map(compiled, found) if message]
    print(*failures, f"{time.monotonic() - start:.0f} s, {len(failures)} failed", sep="\n", flush=True)


def compilations(data: Dataset, dtype: torch.dtype) -> list[Compilation]:
    """Those of a training step under autocast to `dtype`, each once, the same kernel's apart from each other."""
    launches = followed("auto", data, dtype).kernels
    return sorted(set(map(_described, launches)), key=lambda x: hash((x.arguments, x.options)))


def compiled(job: Compilation) -> str:
    """Compiles for the GPU at hand; returns what went wrong."""
    kernel = getattr(import_module(job.module), job.kernel)
    try:
        arguments = {name: _stand_in(x) for name, x in job.arguments}
        kernel.warmup(grid=(1,), **arguments, **dict(job.options))
    except Exception as error:  # a kernel that cannot be compiled here is told where it is needed
        return f"{job.kernel}: {type(error).__name__}: {str(error)[:200]}"
    return ""


def _described(launch: Launch) -> Compilation:
    function = launch.kernel.fn
    constants = {name for name, x in signature(function).parameters.items() if x.annotation is tl.constexpr}
    arguments = tuple((name, x if name in constants else _frozen(x)) for name, x in launch.arguments.items())
    return Compilation(function.__module__, function.__name__, arguments, tuple(launch.options.items()))


def _frozen(x: Any) -> Any:
    """Tensors as their dtypes, and integers as others that Triton compiles the same for."""
    if isinstance(x, Tensor):
        return x.dtype
    if isinstance(x, tuple):
        return tuple(map(_frozen, x))
    if isinstance(x, int) and not isinstance(x, bool) and 1 < x < 2**31:
        return 17 if x % 16 else 16
    return x


def _stand_in(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return torch.empty(1, dtype=x, device="cuda")
    return tuple(map(_stand_in, x)) if isinstance(x, tuple) else x


if __name__ == "__main__":
    main()
