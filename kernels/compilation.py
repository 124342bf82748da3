"""Ahead-of-time compilation of launches, which needs no GPU, and what the compiled kernels take from one.

The launches are those that the operators make, recorded on tensors without memory, and their arguments are specialised
by the code of Triton's own launcher. Needs a process in which TRITON_INTERPRET is not set.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import create_function_from_signature

from .launch import Launch, record
from .map_tables import Layout

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that one program may use, by compute capability."""

_TENSOR_CORES = {"tcgen05": r"\btcgen05\.mma", "wgmma": r"\bwgmma\.mma_async", "mma.sync": r"\bmma\.sync"}


@dataclass(frozen=True)
class Resources:
    """One kernel on one shape, compiled for one compute capability."""

    kernel: str
    shape: str
    dtype: str
    arch: int
    registers: int
    """32-bit registers of a thread."""
    spills: int
    """Bytes of local memory of a thread."""
    shared: int
    """Bytes of shared memory of a program."""
    tensor_cores: str
    lost: int = 0
    """Values that loops carry in the source and no longer in the compiled kernel, see `_carried`."""

    def faults(self) -> list[str]:
        """What is wrong with it, in words; empty where nothing is."""
        limit = SHARED_LIMIT[self.arch]
        return [
            *([f"{self.spills} bytes of registers spill"] if self.spills else []),
            *([f"{self.shared} bytes of shared memory, the limit is {limit}"] if self.shared > limit else []),
            *([f"{self.lost} values that its loops carry are lost"] if self.lost else []),
            *(["no tensor cores"] if self.dtype != "float32" and self.tensor_cores == "none" else []),
        ]


@dataclass(frozen=True)
class CompiledCase:
    """Launches of an operator on one shape."""

    shape: str
    dtype: torch.dtype
    run: Callable[[], object]
    """Calls `forward` and `backward`, on tensors without memory."""
    tested_on: tuple[int, ...] = ()
    """The compute capabilities for which the tests compile it; the table of resources has all."""


def compile_launch(launch: Launch, arch: int) -> CompiledKernel:
    """Compile what `launch` would have compiled on a GPU of compute capability `arch` (80, 90, 100)."""
    target = GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    kernel = launch.kernel
    options = {**launch.options, "debug": False}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
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


def _carried(module: str) -> int:
    """How many values the loops of a module carry from one turn to the next.

    Compiling may add some, of loads that run ahead, and takes none away: the kernels carry nothing idle. Triton 3.6
    forgets a value that a loop carries for nothing but the bounds of a loop inside it: the inner loop then always
    begins where it began first.
    """
    return sum(int(count or 1) for count in re.findall(r"(?:%\w+(?::(\d+))? = )scf\.for", module))


def measure(case: CompiledCase, arch: int) -> Iterator[Resources]:
    """Compile the launches of `case`, of alike ones (kernel, layouts, length) one, and read what they take."""
    with record() as launches:
        case.run()
    different = {}
    for x in launches:
        layouts = tuple(value for value in x.arguments.values() if isinstance(value, Layout))
        different[x.kernel, layouts, len(x.arguments.get("sizes", ()))] = x
    for launch in different.values():
        compiled = compile_launch(launch, arch)
        usage = _usage(compiled.asm["cubin"])
        found = [name for name, pattern in _TENSOR_CORES.items() if re.search(pattern, compiled.asm["ptx"])]
        yield Resources(
            kernel=launch.kernel.fn.__name__,
            shape=case.shape,
            dtype=str(case.dtype).removeprefix("torch."),
            arch=arch,
            registers=usage["REG"],
            spills=usage["STACK"] + usage["LOCAL"],
            shared=compiled.metadata.shared,
            lost=max(0, _carried(compiled.asm["ttir"]) - _carried(compiled.asm["ttgir"])),
            tensor_cores=", ".join(found) or ("none" if "tt.dot" in compiled.asm["ttir"] else "no products"),
        )
