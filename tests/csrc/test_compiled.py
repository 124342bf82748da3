"""What nvcc makes of the kernels, for three architectures: checked without a GPU wherever there is an nvcc.

The binary is kept in pytest's cache and compiled again when a source, a flag or a version changes.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from seqca import building

from .host import ROOT

KERNELS = ("sum_source", "map_target", "differentiate_target", "differentiate_source")
CLASSES = (18, 36, 72)
NUMBERS = ("f", "bf16", "fp16")
REGISTERS = 65536
"""Of a multiprocessor, on every architecture from sm_80 on."""


class Build(NamedTuple):
    """A strict build, and what the compilers said."""

    parameters: building.Parameters
    folder: Path

    @property
    def binary(self) -> Path:
        return self.folder / building.FILE_NAME

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()


@pytest.fixture(scope="module")
def build(pytestconfig: pytest.Config) -> Iterator[Build]:
    """Compiled with warnings as errors; one process at a time, the others find the result."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if not home and shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc: test_building.py tests what is done without one")
    parameters = building.parameters({**os.environ, "SEQCA_CUDA_ARCHS": "80;90;100"})
    folder = pytestconfig.cache.mkdir("csrc") / parameters.key()
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = Build(parameters, folder)
        if not made.binary.is_file():
            building.build(folder, parameters, strict=True, log=folder / "log.txt")
    yield made


class Resources(NamedTuple):
    """One kernel on one architecture, as ptxas reports it."""

    architecture: str
    kernel: str
    number: str
    channels: int
    registers: int
    stack: int
    spilled: int


def _name(mangled: str) -> tuple[str, str, int] | None:
    found = re.search(rf"({'|'.join(KERNELS)})I.*?ShapeI(f|NS\w*?_4(bf16|fp16)E)Li(\d+)E", mangled)
    return (found[1], found[3] or found[2], int(found[4])) if found else None


def _resources(log: str) -> list[Resources]:
    pattern = (
        r"Compiling entry function '(\S+)' for 'sm_(\d+)'\n.*?\n\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads\n.*?Used (\d+) registers"
    )
    rows = []
    for name, architecture, stack, stores, loads, registers in re.findall(pattern, log):
        kernel = _name(name)
        assert kernel is not None, name
        rows.append(Resources(architecture, *kernel, int(registers), int(stack), int(stores) + int(loads)))
    return rows


def test_every_kernel_is_compiled_for_every_architecture_and_nothing_spills(build: Build) -> None:
    rows = _resources(build.log)
    found = {(r.architecture, r.kernel, r.number, r.channels) for r in rows}
    wanted = {(a, k, n, c) for a in ("80", "90", "100") for k in KERNELS for n in NUMBERS for c in CLASSES}
    assert found == wanted
    assert not [row for row in rows if row.spilled or row.stack]


def test_as_many_blocks_as_meant_fit_into_the_registers(build: Build) -> None:
    blocks = {
        "sum_source": (5, 4, 4),
        "map_target": (6, 4, 3),
        "differentiate_target": (4, 2, 2),
        "differentiate_source": (5, 4, 4),
    }
    for row in _resources(build.log):
        # Registers are given out in eights to each thread, and to four warps at once.
        of_a_block = 4 * 32 * (-(-row.registers // 8) * 8)
        assert blocks[row.kernel][CLASSES.index(row.channels)] * of_a_block <= REGISTERS, row


def test_tensor_cores_multiply_half_precision_and_nothing_else(build: Build) -> None:
    triton = find_spec("triton")
    assert triton is not None and triton.origin is not None, "cuobjdump comes with Triton"
    tools = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
    command = [str(tools / "cuobjdump"), "--dump-sass", str(build.binary)]
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    products: dict[tuple[str, tuple[str, str, int]], int] = defaultdict(int)
    architecture, kernel = "", None
    for line in result.stdout.splitlines():
        if found := re.match(r"\s*arch = sm_(\d+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function : (\S+)", line):
            kernel = _name(found[1])
            assert kernel is not None, line
            products[architecture, kernel] += 0
        elif kernel is not None and re.search(r"\b\w*MMA\b", line):
            assert "HMMA.16816.F32" in line, line
            products[architecture, kernel] += 1
        assert not re.search(r"\b(LDL|STL)\b", line), f"local memory in {kernel}: {line}"
    assert len(products) == 3 * len(KERNELS) * len(NUMBERS) * len(CLASSES)
    for (architecture, (name, number, channels)), count in products.items():
        assert (count > 0) == (number != "f"), (architecture, name, number, channels)


LOAD = """
import json, sys, torch
from pathlib import Path
import seqca.extension as extension
extension._FOLDER, extension.ABSENCE = Path(sys.argv[1]), None
information = extension.information()
ops = torch.ops.seqca_cuda
schemas = [str(op.default._schema) for op in (ops.linear_attention_forward, ops.linear_attention_backward)]
q = torch.ones(1, 2, 3)
try:
    ops.linear_attention_forward([q], [q], [q], 1e-12)
    refused = ""
except NotImplementedError as error:
    refused = str(error)
print(json.dumps([information, schemas, refused]))
"""


def test_the_extension_loads_without_a_gpu_and_knows_its_build(build: Build) -> None:
    command = [sys.executable, "-c", LOAD, str(build.folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    information, schemas, refused = json.loads(result.stdout)
    assert information == json.loads(json.dumps(build.parameters.information))
    assert schemas == [
        "seqca_cuda::linear_attention_forward(Tensor[] q, Tensor[] k, Tensor[] v, float eps) -> (Tensor[], Tensor[])",
        "seqca_cuda::linear_attention_backward(Tensor[] grad, Tensor[] q, Tensor[] k, Tensor[] v, Tensor[] states, "
        "float eps) -> (Tensor[], Tensor[], Tensor[])",
    ]
    assert "'CPU' backend" in refused


def test_a_binary_that_does_not_load_says_what_was_built_against_what(build: Build, tmp_path: Path) -> None:
    (tmp_path / building.FILE_NAME).write_bytes(b"no library")
    shutil.copy(build.folder / building.SIDECAR_NAME, tmp_path)
    result = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode != 0
    torch = build.parameters.torch
    assert f"It was built with torch {torch.version} (for 2.11 and newer), CUDA" in result.stderr
    assert "here are torch" in result.stderr
