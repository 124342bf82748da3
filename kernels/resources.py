"""What every kernel takes from the GPU, by ahead-of-time compilation: needs no GPU, but a Triton that compiles.

`python -m seqca.kernels.resources` compiles all launches of every operator over the network's shapes, for sm_80, sm_90
and sm_100, and prints a table. The launches are those that the operators make: they are recorded on tensors without
memory, and their arguments specialised by Triton's own launcher code.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from . import linear_attention
from .launch import Launch, record

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that one program may use, by compute capability."""

_TENSOR_CORES = {
    "tcgen05.mma": re.compile(r"\btcgen05\.mma"),
    "wgmma": re.compile(r"\bwgmma\.mma_async"),
    "mma.sync": re.compile(r"\bmma\.sync"),
}


@dataclass(frozen=True)
class Resources:
    """One kernel compiled for one architecture."""

    kernel: str
    shape: str
    dtype: str
    arch: int
    registers: int
    spills: int
    shared: int
    tensor_cores: str


@dataclass(frozen=True)
class Case:
    """Launches of an operator on one shape."""

    shape: str
    dtype: torch.dtype
    run: Callable[[], object]


def compile_launch(launch: Launch, arch: int) -> triton.compiler.CompiledKernel:
    """Compile what `launch` would compile on a GPU of compute capability `arch` (80, 90, 100)."""
    target = GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    kernel = launch.kernel
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    options = {**launch.options, "debug": False}
    bound, specialization, _ = bind(**launch.arguments, **options)
    parsed, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, options)
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=parsed.__dict__)


def _usage(cubin: bytes) -> dict[str, int]:
    """REG, STACK, SHARED and LOCAL of the kernel in `cubin`, by the disassembler that Triton carries."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}


def resources(launch: Launch, case: Case, arch: int) -> Resources:
    """Compile one launch and read what it takes."""
    compiled = compile_launch(launch, arch)
    usage = _usage(compiled.asm["cubin"])
    found = [name for name, pattern in _TENSOR_CORES.items() if pattern.search(compiled.asm["ptx"])]
    return Resources(
        kernel=launch.kernel.fn.__name__.strip("_"),
        shape=case.shape,
        dtype=str(case.dtype).removeprefix("torch."),
        arch=arch,
        registers=usage["REG"],
        spills=usage["STACK"] + usage["LOCAL"],
        shared=compiled.metadata.shared,
        tensor_cores=", ".join(found) or "none",
    )
