"""What a multiprocessor must give to each kernel, as ptxas reports it.

    python -m tests.csrc.resources build/temp*/compilers.log

prints the table of docs/building.md.
"""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from .host import EmulatedKernels, compile_on_host

ARCHITECTURES = ("80", "90", "100")
PASSES = ("forward_states", "forward_output", "backward_queries", "backward_sources")
KERNELS = tuple(f"linear_attention_{name}" for name in PASSES)
CLASSES = (18, 36, 72)
DTYPES = {"f": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WARPS = {18: 4, 36: 4, 72: 3}
"""Of a block."""
REGISTERS_OF_A_QUARTER = 16384
"""A multiprocessor deals warps to four quarters."""
SHARED_MEMORY = {"80": 164 * 1024, "90": 228 * 1024, "100": 228 * 1024}
"""Of a multiprocessor; 1 KiB of it goes to every block besides what the block asks for."""


class Kernel(NamedTuple):
    """One instance of a kernel."""

    name: str
    number: str
    channels: int

    @classmethod
    def of(cls, mangled: str) -> "Kernel":
        """The kernel with a linker's name."""
        found = re.search(rf"({'|'.join(KERNELS)})I.*?TilingI(f|NS\w*?_4(bf16|fp16)E)Li(\d+)E", mangled)
        assert found is not None, f"no kernel of linear_attention: {mangled}"
        return cls(found[1], found[3] or found[2], int(found[4]))


ALL_KERNELS = [Kernel(k, n, c) for k in KERNELS for n in DTYPES for c in CLASSES]


class CudaResources(NamedTuple):
    """Registers of a thread, bytes of its stack and bytes of registers that it spills."""

    registers: int
    stack: int
    spilled: int

    def blocks(self, kernel: Kernel) -> int:
        """Blocks of a kernel whose registers fit on a multiprocessor: cudaOccMaxBlocksPerSMRegsLimit of
        cuda_occupancy.h. Registers are given out in eights to each thread."""
        of_a_warp = 32 * (-(-self.registers // 8) * 8)
        return 4 * (REGISTERS_OF_A_QUARTER // of_a_warp) // WARPS[kernel.channels]


def resources(log: str) -> dict[tuple[str, Kernel], CudaResources]:
    """By architecture and kernel, from the output of nvcc -Xptxas=-v."""
    pattern = (
        r"Compiling entry function '(\S+)' for 'sm_(\d+)'\n.*?\n\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads\n.*?Used (\d+) registers"
    )
    return {
        (architecture, Kernel.of(name)): CudaResources(int(registers), int(stack), int(stores) + int(loads))
        for name, architecture, stack, stores, loads, registers in re.findall(pattern, log)
    }


def table(log: str) -> str:
    """Registers, shared memory, and how many blocks of a kernel a multiprocessor holds with them."""
    with TemporaryDirectory() as folder:
        emulated = EmulatedKernels(compile_on_host("emulation.cpp", Path(folder) / "library.so", "-fPIC", "-shared"))
    of = resources(log)
    lines = [
        "| kernel | channels | dtype | shared memory | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " |",
        "|---" * (4 + len(ARCHITECTURES)) + "|",
    ]
    for kernel in ALL_KERNELS:
        dtype = DTYPES[kernel.number]
        shared = emulated.shared_memory(dtype, kernel.channels)[KERNELS.index(kernel.name)]
        cells = []
        for architecture in ARCHITECTURES:
            one = of[architecture, kernel]
            blocks = min(one.blocks(kernel), SHARED_MEMORY[architecture] // (shared + 1024))
            cells.append(f"{one.registers}, {blocks}")
        dtype_name = str(dtype).removeprefix("torch.")
        lines.append(f"| {kernel.name} | {kernel.channels} | {dtype_name} | {shared} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).read_text()))
