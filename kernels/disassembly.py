"""Compiled kernels as the disassembler that Triton carries shows them: what they take, and their instructions."""

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import triton

_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")


class Instruction(NamedTuple):
    """A line of a listing."""

    address: int
    guard: str
    """The predicate under which it is executed, such as !P0; empty where there is none."""
    opcode: str
    operands: tuple[str, ...]


def resource_usage(cubin: bytes) -> dict[str, int]:
    """REG, STACK, SHARED and LOCAL of the kernel in `cubin`."""
    return {
        name: int(number)
        for name, number in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", _show(cubin, "-res-usage"))
    }


def disassembled(cubin: bytes) -> list[Instruction]:
    """The instructions of the kernel in `cubin`, in their order in memory."""
    return parsed(_show(cubin, "-sass").splitlines())


def parsed(lines: Iterable[str]) -> list[Instruction]:
    """The instructions of a listing."""
    found = map(_LINE.match, lines)
    return [Instruction(int(m[1], 16), m[2] or "", m[3], tuple(m[4].split(", ")) if m[4] else ()) for m in found if m]


def _show(cubin: bytes, what: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, what, file.name], check=True, capture_output=True, text=True).stdout
