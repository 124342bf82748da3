"""Ahead-of-time compilation of launches, which needs no GPU, and what the compiled kernels take from one.

The launches are those that the operators make, recorded on tensors without memory, and their arguments are specialised
by the code of Triton's own launcher. Needs a process in which TRITON_INTERPRET is not set.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import create_function_from_signature

from .control_flow import ARGUMENTS, DATA
from .disassembly import resource_usage
from .launch import Launch, record
from .map_tables import Layout
from .predictions import ARCH, Prediction, bytes_of, predict

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
    warps: int
    """Of a program."""
    registers: int
    """32-bit registers of a thread."""
    spills: int
    """Bytes of local memory of a thread."""
    shared: int
    """Bytes of shared memory of a program."""
    tensor_cores: str
    lost: int = 0
    """Values that loops carry in the source and no longer in the compiled kernel, see `_carried`."""
    prediction: Prediction | None = None
    """Of the launch, where the case has `tokens` and the tests compile it for sm_90, in bfloat16."""

    @classmethod
    def parsed(cls, line: str) -> "Resources":
        """From the JSON object of a line."""
        fields = json.loads(line)
        prediction = fields.pop("prediction")
        return cls(**fields, prediction=Prediction(**prediction) if prediction else None)

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
    tokens: int | None = None
    """Positions of the finest maps of the call, over images and pairs or tasks; None where no time is predicted."""


def _specialised(launch: Launch, arch: int) -> tuple[Any, dict[str, Any], list[Any], GPUTarget, dict[str, Any]]:
    """The backend, bound arguments, their specialisations, the target and options, by Triton's own launcher."""
    target = GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    options = {**launch.options, "debug": False}
    bind = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
    bound, specialization, _ = bind(**launch.arguments, **options)
    return backend, bound, specialization, target, options


def compile_launch(launch: Launch, arch: int) -> CompiledKernel:
    """Compile `launch`, with the options that it was recorded with, for compute capability `arch` (80, 90, 100)."""
    backend, bound, specialization, target, options = _specialised(launch, arch)
    kernel = launch.kernel
    parsed, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, options)
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=parsed.__dict__)


def _arguments_in_memory(launch: Launch, compiled: CompiledKernel) -> dict[int, Any]:
    """Words of constant memory that hold the arguments, by their offset; addresses are made up, floats are DATA."""
    _, bound, specialization, _, _ = _specialised(launch, ARCH)
    values = list(_passed([x[0] for x in specialization], bound.values()))
    sizes = [int(bits) // 8 for bits in re.findall(r"^\s*\.param \.[a-z](\d+)", compiled.asm["ptx"], re.MULTILINE)]
    words: dict[int, Any] = {}
    offset = ARGUMENTS
    # Triton appends addresses of scratch memory, of which the kernels have none.
    for size, (kind, value) in zip(sizes, values, strict=False):
        offset = -(-offset // size) * size
        if kind.startswith("*"):
            value = offset << 32
        for i in range(0, max(size, 4), 4):
            words[offset + i] = value >> 8 * i & 0xFFFFFFFF if isinstance(value, int) else DATA
        offset += size
    assert len(values) <= len(sizes), f"arguments: got {len(values)}, expected {len(sizes)} at most"
    return words


def _passed(kinds: Iterable[Any], values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Type and value of every argument that is no constant, those of tuples one after the other."""
    for kind, value in zip(kinds, values, strict=True):
        if isinstance(kind, str):
            if kind != "constexpr":
                yield kind, value
        else:
            yield from _passed(kind, value)


def _carried(module: str) -> int:
    """How many values the loops of a module carry from one turn to the next.

    Compiling may add some, of loads that run ahead, and takes none away: the kernels carry nothing idle. Triton 3.6
    forgets a value that a loop carries for nothing but the bounds of a loop inside it: the inner loop then always
    begins where it began first. Loops between constants are left out, of which compiling may take turns apart.
    """
    constants = set(re.findall(r"(%\w+) = arith\.constant", module))
    loops = re.findall(r"%\w+(?::(\d+))? = scf\.for %\w+ = (%\w+) to (%\w+)", module)
    return sum(int(count or 1) for count, *bounds in loops if not constants.issuperset(bounds))


def measure(case: CompiledCase, arch: int) -> Iterator[Resources]:
    """Compile the launches of `case`, of alike ones (kernel, layouts, length) one, and read what they take."""
    with record(architecture=arch) as launches:
        case.run()
    different: dict[Any, Launch] = {}
    for x in launches:
        layouts = tuple(value for value in x.arguments.values() if isinstance(value, Layout))
        key = x.kernel, layouts, len(x.arguments.get("sizes", ()))
        different[key] = max(different.get(key, x), x, key=bytes_of)
    for launch in different.values():
        compiled = compile_launch(launch, arch)
        usage = resource_usage(compiled.asm["cubin"])
        prediction = None
        # The tests compare what they compile.
        if case.tokens and case.dtype == torch.bfloat16 and arch == ARCH and arch in case.tested_on:
            words = _arguments_in_memory(launch, compiled)
            alike = sum(x.kernel is launch.kernel for x in launches)
            try:
                prediction = predict(launch, compiled, words, usage["REG"], case.tokens, alike)
            except ValueError as error:  # an instruction that another version of Triton or ptxas uses
                print(f"{launch.kernel.fn.__name__}, {case.shape}: not predicted: {error}", file=sys.stderr)
        found = [name for name, pattern in _TENSOR_CORES.items() if re.search(pattern, compiled.asm["ptx"])]
        yield Resources(
            kernel=launch.kernel.fn.__name__,
            shape=case.shape,
            dtype=str(case.dtype).removeprefix("torch."),
            arch=arch,
            warps=launch.options["num_warps"],
            registers=usage["REG"],
            spills=usage["STACK"] + usage["LOCAL"],
            shared=compiled.metadata.shared,
            lost=max(0, _carried(compiled.asm["ttir"]) - _carried(compiled.asm["ttgir"])),
            tensor_cores=", ".join(found) or ("none" if "tt.dot" in compiled.asm["ttir"] else "no products"),
            prediction=prediction,
        )
