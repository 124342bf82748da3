"""What every kernel takes from the GPU, by ahead-of-time compilation, which needs no GPU.

`python -m seqca.kernels.resources` compiles the launches of every operator over the network's shapes for sm_80, sm_90
and sm_100, and prints a table; it fails where registers spill, shared memory is exceeded or 16-bit inputs are
multiplied without tensor cores. The launches are those that the operators make, recorded on tensors without memory, and
their arguments are specialised by the code of Triton's own launcher. Needs a process in which TRITON_INTERPRET is not
set.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import create_function_from_signature

from . import linear_attention, softplus, upsampled_loss
from .launch import Launch, Layout, record

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that one program may use, by compute capability."""

TOKENS = {18: 19200, 36: 19200, 60: 19200, 72: 4800, 144: 1200, 288: 300}
"""Tokens of a 480×640 image at the scale that has so many channels."""

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

    def faults(self) -> list[str]:
        """What must not be."""
        limit = SHARED_LIMIT[self.arch]
        return [
            *([f"{self.spills} bytes of registers spill"] if self.spills else []),
            *([f"{self.shared} bytes of shared memory, the limit is {limit}"] if self.shared > limit else []),
            *(["no tensor cores"] if self.dtype != "float32" and self.tensor_cores == "none" else []),
        ]


@dataclass(frozen=True)
class Case:
    """Launches of an operator on one shape."""

    shape: str
    dtype: torch.dtype
    run: Callable[[], object]


def linear_attention_case(channels: int, dtype: torch.dtype, layout: str) -> Case:
    """Forward and backward on eight images.

    `layout`: twelve maps in one tensor, channels-last or contiguous; pairs, the list of them as the network passes it
    for four tasks, slices of the channels of contiguous maps; list, the same with maps of four sizes; across, a
    contiguous map that attends to one of a quarter of the tokens, as across the network's scales.
    """

    def tokens(size: int, *leading: int) -> Tensor:
        return torch.empty(8, *leading, size, channels, dtype=dtype, device="meta")

    def maps(size: int, *leading: int) -> Tensor:
        return torch.empty(8, *leading, channels, size, dtype=dtype, device="meta").mT

    def slices(which: slice, of: int) -> list[Tensor]:
        """Which of the maps that stand side by side in the channels of each task's."""
        sizes = [TOKENS[channels] // (4**task if layout == "list" else 1) for task in range(4)]
        joint = [torch.empty(8, of * channels, size, dtype=dtype, device="meta") for size in sizes]
        return [x.mT for task in joint for x in task.split(channels, 1)[which]]

    def run() -> None:
        size = TOKENS[channels]
        if layout in ("pairs", "list"):
            q, k, v = slices(slice(3), 6), slices(slice(3, 6), 6), slices(slice(3), 3)
            grad = slices(slice(1, 6, 2), 6)  # of the concatenation with the targets' own maps
        elif layout == "across":
            q, k, v, grad = ([maps(n)] for n in (size, size // 4, size // 4, size))
        else:
            make = tokens if layout == "channels-last" else maps
            q, k, v, grad = ([make(size, 12)] for _ in range(4))
        _, states = linear_attention.forward(q, k, v, 1e-12)
        linear_attention.backward(grad, q, k, v, states, 1e-12)

    return Case(f"C = {channels}, {layout}", dtype, run)


def upsampled_loss_case(kind: str, channels: int, dtype: torch.dtype, gradient: bool = True) -> Case:
    """Labels of eight 480×640 images and predictions at stride 4; backward too where a gradient is needed."""

    def run() -> None:
        prediction = torch.empty(8, channels, 120, 160, dtype=dtype, device="meta")
        target = torch.empty(8, 1 if kind == "two_class" else channels, 480, 640, device="meta")
        if kind == "cross_entropy":
            target = target[:, 0].long()
        _, kept, divisor = upsampled_loss.forward(prediction, target, kind, 255.0, None, gradient)
        if gradient:
            upsampled_loss.backward(torch.empty((), device="meta"), prediction, kept, divisor)

    return Case(f"C = {channels}, {kind}" + ("" if gradient else ", no gradient"), dtype, run)


def softplus_case(dtype: torch.dtype, layout: str) -> Case:
    """Queries and keys of a map at scale 0, and a gradient laid out like them or with channels last."""

    def run() -> None:
        y = softplus.forward(torch.empty(8, 216, 120, 160, dtype=dtype, device="meta"))
        order = torch.channels_last if layout == "transposed gradient" else torch.contiguous_format
        softplus.backward(torch.empty_like(y, memory_format=order), y)

    return Case(f"C = 216, {layout}", dtype, run)


CLASSES = (13, 21, 40, 100, 200)
"""A number of classes for each width of the tiles of upsampled losses."""


def all_cases() -> Iterator[tuple[Case, int]]:
    """Every shape on every compute capability."""
    for arch in SHARED_LIMIT:
        for channels in TOKENS:
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                yield linear_attention_case(channels, dtype, "channels-last"), arch
                yield linear_attention_case(channels, dtype, "pairs"), arch
            for layout in ("contiguous", "across", "list"):
                yield linear_attention_case(channels, torch.bfloat16, layout), arch
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for classes in CLASSES:
                yield upsampled_loss_case("cross_entropy", classes, dtype), arch
            for layout in ("contiguous", "transposed gradient"):
                yield softplus_case(dtype, layout), arch
            for kind, channels in (("l1", 1), ("unit_l1", 3), ("balanced_bce", 1), ("two_class", 2)):
                yield upsampled_loss_case(kind, channels, dtype), arch
        yield upsampled_loss_case("cross_entropy", 40, torch.bfloat16, gradient=False), arch


def quick_cases() -> Iterator[tuple[Case, int]]:
    """A selection in which every shape, dtype, layout and compute capability occurs, the target shape on all."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    for arch in SHARED_LIMIT:
        yield linear_attention_case(36, bf16, "channels-last"), arch
    for dtype in (bf16, fp16, fp32):
        yield linear_attention_case(36, dtype, "pairs"), 90
    yield linear_attention_case(36, bf16, "list"), 100
    yield linear_attention_case(36, bf16, "across"), 90
    yield linear_attention_case(288, bf16, "pairs"), 80
    yield linear_attention_case(18, fp16, "contiguous"), 90
    yield linear_attention_case(36, fp32, "contiguous"), 90
    yield linear_attention_case(60, fp16, "channels-last"), 80
    yield linear_attention_case(72, bf16, "contiguous"), 80
    yield linear_attention_case(144, fp16, "channels-last"), 100
    yield linear_attention_case(288, bf16, "contiguous"), 90
    yield linear_attention_case(288, fp32, "channels-last"), 80
    yield softplus_case(bf16, "contiguous"), 90
    yield softplus_case(fp32, "transposed gradient"), 80
    yield upsampled_loss_case("cross_entropy", 13, fp16), 90
    yield upsampled_loss_case("cross_entropy", 21, fp16), 100
    for arch in SHARED_LIMIT:
        yield upsampled_loss_case("cross_entropy", 40, bf16), arch
    yield upsampled_loss_case("cross_entropy", 100, fp32), 100
    yield upsampled_loss_case("cross_entropy", 200, fp32), 80
    yield upsampled_loss_case("unit_l1", 3, bf16), 80
    yield upsampled_loss_case("l1", 1, fp32), 90
    yield upsampled_loss_case("two_class", 2, fp16), 100
    yield upsampled_loss_case("cross_entropy", 40, bf16, gradient=False), 90


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


def measure(case: Case, arch: int) -> Iterator[Resources]:
    """Compile the launches of `case`, of alike ones (kernel, layouts, length) one, and read what they take."""
    with record() as launches:
        case.run()
    different = {}
    for x in launches:
        absent = tuple(name for name, value in x.arguments.items() if value is None)
        layouts = tuple(value for value in x.arguments.values() if isinstance(value, Layout))
        different[x.kernel, absent, layouts, len(x.arguments.get("sizes", ()))] = x
    for (_, absent, *_), launch in different.items():
        compiled = compile_launch(launch, arch)
        usage = _usage(compiled.asm["cubin"])
        found = [name for name, pattern in _TENSOR_CORES.items() if re.search(pattern, compiled.asm["ptx"])]
        yield Resources(
            kernel=" without ".join([launch.kernel.fn.__name__.removesuffix("_kernel"), *absent[:1]]),
            shape=case.shape,
            dtype=str(case.dtype).removeprefix("torch."),
            arch=arch,
            registers=usage["REG"],
            spills=usage["STACK"] + usage["LOCAL"],
            shared=compiled.metadata.shared,
            tensor_cores=", ".join(found) or ("none" if "tt.dot" in compiled.asm["ttir"] else "no products"),
        )


def table(rows: list[Resources]) -> str:
    """Markdown, a column for each compute capability."""
    cells: dict[tuple[str, str, str], dict[int, str]] = {}

    def order(r: Resources) -> tuple[object, ...]:
        return r.kernel, r.dtype, [int(x) if x.isdigit() else x for x in r.shape.split()], r.registers

    for r in sorted(rows, key=order):  # of several layouts, the one with most registers comes last and stays
        spills = f", spills {r.spills}" if r.spills else ""
        cell = f"{r.registers}{spills}, {r.shared / 1024:.0f} KiB, {r.tensor_cores}"
        cells.setdefault((r.kernel, r.shape, r.dtype), {})[r.arch] = cell
    archs = sorted({r.arch for r in rows})
    lines = [
        "# Resources of the Triton kernels",
        "",
        f"Made by `python -m seqca.kernels.resources` with Triton {triton.__version__}: compiled ahead of time, not",
        "measured. A cell has the registers of a thread, the bytes of registers that spill where any do, the shared",
        "memory of a program and its instructions on tensor cores; of several layouts in one list, the one with most",
        "registers. Layouts: channels-last and contiguous, twelve maps in one tensor; pairs, the list of them as the",
        "network passes it for four tasks, slices of the channels of contiguous maps; list, the same with maps of four",
        "sizes; across, a map that attends to one of a quarter of the tokens. `linear_attention` multiplies float32 on",
        "tensor cores only where torch's TF32 switch allows it; `upsampled_loss` (kernels loss, tally, finish, scale)",
        "makes three TF32 products of one, nearly as exact as float32, where it does not.",
        "",
        "| kernel | shape | dtype | " + " | ".join(f"sm_{arch}" for arch in archs) + " |",
        "|---" * (3 + len(archs)) + "|",
    ]
    for key, row in cells.items():
        lines.append("| " + " | ".join([*key, *(row.get(arch, "") for arch in archs)]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m seqca.kernels.resources", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a selection of shapes")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    arguments = parser.parse_args()
    rows = []
    for case, arch in quick_cases() if arguments.quick else all_cases():
        print(f"sm_{arch} {case.shape} {case.dtype}", file=sys.stderr, flush=True)
        rows += measure(case, arch)
    print("\n".join(json.dumps(asdict(r)) for r in rows) if arguments.json else table(rows).rstrip())
    faults = [f"{r.kernel}, {r.shape}, {r.dtype}, sm_{r.arch}: {fault}" for r in rows for fault in r.faults()]
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
