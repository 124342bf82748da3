"""How long a launch takes at least on an H100 or H200, predicted from its binary and its tensors; nothing is measured.

A launch needs the largest of three times: to read and write its tensors, each once; to issue its instructions, one a
cycle on each of the four parts of a multiprocessor; and to multiply on tensor cores. What it waits for comes on top.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor
from triton.compiler import CompiledKernel

from .control_flow import ControlFlow, word
from .disassembly import disassembled
from .launch import Launch

ARCH = 90
"""The compute capability of both."""

BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12}
"""Bytes a second of the memory of the SXM cards."""

_MULTIPROCESSORS = 132
_PARTS = 4
_CLOCK = 1.98e9
"""Of the boost, in cycles a second."""
_REGISTERS = 65536
_WARPS = 64
_PROGRAMS = 32
_SHARED = 228 * 1024
_RESERVED = 1024
"""Bytes of shared memory that every program takes beside its own."""

_SAMPLES = 4
"""Programs that are followed through the listing, spread evenly over the launch."""


@dataclass(frozen=True)
class Prediction:
    """What a launch asks of the GPU."""

    tokens: int
    """Of the case, see `CompiledCase`."""
    launches: int
    """Of the kernel in the call; the others are smaller or of another layout."""
    programs: int
    resident: int
    """Programs that a multiprocessor has room for."""
    instructions: int
    """Of all warps."""
    tensor_cycles: int
    """Cycles of a part of a multiprocessor that products take on its tensor core."""
    bytes: int
    """Of the tensors of the launch."""

    def microseconds(self, gpu: str) -> dict[str, float]:
        """What it takes at least, by limit."""
        cycles = min(self.programs, _MULTIPROCESSORS) * _PARTS * _CLOCK
        return {
            "bytes": self.bytes / BANDWIDTH[gpu] * 1e6,
            "instructions": self.instructions / cycles * 1e6,
            "tensor cores": self.tensor_cycles / cycles * 1e6,
        }

    def predicted(self, gpu: str) -> tuple[float, str]:
        """The longest of these times, and its limit."""
        times = self.microseconds(gpu)
        limit = max(times, key=times.__getitem__)
        return times[limit], limit

    def beyond_bytes(self, gpu: str) -> float:
        """Microseconds that would be won at most if nothing but the bytes mattered."""
        return self.predicted(gpu)[0] - self.microseconds(gpu)["bytes"]


def predict(
    launch: Launch, compiled: CompiledKernel, arguments: Mapping[int, Any], registers: int, tokens: int, launches: int
) -> Prediction:
    """What a launch asks of the GPU.

    Args:
        launch: as recorded.
        compiled: for `ARCH`.
        arguments: the words of constant memory that hold its arguments, by their offset.
        registers: of a thread.
        tokens: of the case.
        launches: of the kernel in the case.
    """
    warps = launch.options["num_warps"]
    issued = _issued(launch, ControlFlow(disassembled(compiled.asm["cubin"])), arguments)
    programs = prod(launch.grid)
    scale = programs * warps
    return Prediction(
        tokens=tokens,
        launches=launches,
        programs=programs,
        resident=resident(registers, compiled.metadata.shared, warps),
        instructions=round(scale * sum(issued.values())),
        tensor_cycles=round(scale * sum(times * tensor_cycles(opcode) for opcode, times in issued.items())),
        bytes=bytes_of(launch),
    )


def _issued(launch: Launch, flow: ControlFlow, arguments: Mapping[int, Any]) -> dict[str, float]:
    """How often the first warp of a program issues each opcode, the mean of some programs."""
    x, y, z = (*launch.grid, 1, 1)[:3]
    threads = (32 * launch.options["num_warps"], 1, 1)
    shape = dict(zip(range(0, 24, 4), (*threads, x, y, z), strict=True))
    known = {word(offset): value for offset, value in {**shape, **arguments}.items()}
    known |= {f"SR_TID.{axis}": 0 for axis in "XYZ"}
    programs = x * y * z
    chosen = sorted({(2 * i + 1) * programs // (2 * _SAMPLES) for i in range(_SAMPLES)})
    total: Counter[str] = Counter()
    for program in chosen:
        place = {"SR_CTAID.X": program % x, "SR_CTAID.Y": program // x % y, "SR_CTAID.Z": program // x // y}
        total += flow.issued(known | place)
    return {opcode: times / len(chosen) for opcode, times in total.items()}


def tensor_cycles(opcode: str) -> float:
    """Cycles that an instruction of a warp takes on the tensor core of its part: 1024 operations each, 512 in TF32."""
    rate = 512 if "TF32" in opcode else 1024
    group = re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)\.", opcode)
    if group:  # of four warps
        return 2 * prod(int(x) for x in group.groups()) / 4 / rate
    one = re.match(r"HMMA\.(16)(8)(4|8|16)\.", opcode)
    return 2 * prod(int(x) for x in one.groups()) / rate if one else 0.0


def resident(registers: int, shared: int, warps: int) -> int:
    """Programs that a multiprocessor has room for."""
    of_warp = -(-registers * 32 // 256) * 256
    by_registers = _REGISTERS // _PARTS // of_warp * _PARTS // warps
    by_shared = _SHARED // (-(-shared // 128) * 128 + _RESERVED)
    return min(by_registers, by_shared, _WARPS // warps, _PROGRAMS)


def bytes_of(launch: Launch) -> int:
    """Bytes of the tensors of a launch, each once, and what is expanded as it stands in memory."""
    found = {}
    for tensor in tensors(launch.arguments.values()):
        place = tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()
        sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
        found[place] = prod(sizes) * tensor.element_size()
    return sum(found.values())


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among arguments, rows of tables included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from tensors(value)
