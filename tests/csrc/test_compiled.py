"""A wheel with the extension, for three architectures, and what nvcc made of the kernels: checked without a GPU.

It takes minutes: `make test-compiled`, which fails where the extension cannot be built.
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from seqca import building

from .host import NUMBERS, EmulatedKernels, source_tree
from .resources import ALL_KERNELS, ARCHITECTURES, CLASSES, SHARED_MEMORY, Kernel, resources

ENVIRONMENT = {**os.environ, "SEQCA_BUILD": "1", "SEQCA_CUDA_ARCHS": ";".join(ARCHITECTURES)}


class Wheel(NamedTuple):
    """A wheel that was built and installed."""

    parameters: building.BuildParameters
    file: Path
    log: str
    """What the compilers said."""
    installed: Path


def _run(*command: str, cwd: Path, **environment: str) -> str:
    result = subprocess.run(command, cwd=cwd, env={**ENVIRONMENT, **environment}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """Built by pip from a copy of the sources, and installed into a folder of its own."""
    try:
        parameters = building.parameters(ENVIRONMENT)
    except building.CannotBuild as reason:
        if os.environ.get("SEQCA_BUILD") == "1":
            raise
        pytest.skip(f"{reason}; what an installation does then is tested in test_building.py")
    folder = tmp_path_factory.mktemp("wheel")
    tree, installed = source_tree(folder / "tree"), folder / "installed"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), ".", cwd=tree)
    (file,) = folder.glob("*.whl")
    _run(*pip, "install", "--no-deps", "--no-index", "--target", str(installed), str(file), cwd=folder)
    (log,) = (tree / "build").glob("temp*/compilers.log")
    return Wheel(parameters, file, log.read_text(), installed)


def test_no_compiler_warns(wheel: Wheel) -> None:
    assert [line for line in wheel.log.splitlines() if re.search(r"\bwarning\b", line, re.IGNORECASE)] == []


def test_every_kernel_is_compiled_for_every_architecture_and_nothing_spills(wheel: Wheel) -> None:
    found = resources(wheel.log)
    assert found.keys() == {(architecture, kernel) for architecture in ARCHITECTURES for kernel in ALL_KERNELS}
    assert {which: row for which, row in found.items() if row.spilled or row.stack} == {}


def test_as_many_blocks_as_meant_fit_on_a_multiprocessor(wheel: Wheel, emulated_kernels: EmulatedKernels) -> None:
    by_registers = {
        "linear_attention_forward_states": (5, 4, 4),
        "linear_attention_forward_output": (6, 4, 3),
        "linear_attention_backward_queries": (4, 2, 2),
        "linear_attention_backward_sources": (5, 4, 4),
    }
    for (architecture, kernel), row in resources(wheel.log).items():
        assert row.blocks(kernel) >= by_registers[kernel.name][CLASSES.index(kernel.channels)], (architecture, kernel)
    for dtype in NUMBERS:
        for channels in CLASSES:
            for bytes_of_a_block in emulated_kernels.shared_memory(dtype, channels):
                # While one block waits for memory another one computes.
                blocks = 1 if dtype == torch.float32 else 2
                assert blocks * (bytes_of_a_block + 1024) <= min(SHARED_MEMORY.values()), (dtype, channels)


def test_tensor_cores_multiply_half_precision_and_nothing_else(wheel: Wheel) -> None:
    triton = find_spec("triton")
    assert triton is not None and triton.origin is not None, "cuobjdump comes with Triton"
    tools = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    binary = wheel.installed / "seqca" / building.FILE_NAME
    code = _run(str(tools / "cuobjdump"), "--dump-sass", str(binary), cwd=wheel.installed, PATH=path)
    products: dict[tuple[str, Kernel], int] = defaultdict(int)
    architecture, kernel = "", ALL_KERNELS[0]
    for line in code.splitlines():
        if found := re.match(r"\s*arch = sm_(\d+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function : (\S+)", line):
            kernel = Kernel.of(found[1])
            products[architecture, kernel] += 0
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", line):
            instruction = found[1].split(".")[0]
            assert instruction not in ("LDL", "STL"), f"local memory in {kernel}: {line}"
            if instruction.endswith("MMA"):
                assert found[1] in ("HMMA.16816.F32", "HMMA.16816.F32.BF16"), line
                products[architecture, kernel] += 1
    assert products.keys() == {(architecture, kernel) for architecture in ARCHITECTURES for kernel in ALL_KERNELS}
    for which, count in products.items():
        assert (count > 0) == (which[1].number != "f"), which


LOAD = """
import json
import seqca, seqca.extension as extension, torch
information = extension.information()
ops = torch.ops.seqca_cuda
schemas = [str(op.default._schema) for op in (ops.linear_attention_forward, ops.linear_attention_backward)]
q = torch.ones(1, 2, 3)
try:
    ops.linear_attention_forward([q], [q], [q], 1e-12)
    refused = ""
except NotImplementedError as error:
    refused = str(error)
print(json.dumps([seqca.__file__, information, schemas, refused]))
"""


def test_the_wheel_is_imported_without_a_gpu_and_knows_its_build(wheel: Wheel) -> None:
    output = _run(sys.executable, "-c", LOAD, cwd=wheel.installed, PYTHONPATH=str(wheel.installed))
    file, information, schemas, refused = json.loads(output.splitlines()[-1])
    assert Path(file).is_relative_to(wheel.installed)
    assert information == json.loads(json.dumps(wheel.parameters.information))
    assert information["architectures"] == list(ARCHITECTURES)
    assert schemas == [
        "seqca_cuda::linear_attention_forward(Tensor[] q, Tensor[] k, Tensor[] v, float eps) -> (Tensor[], Tensor[])",
        "seqca_cuda::linear_attention_backward(Tensor[] grad, Tensor[] q, Tensor[] k, Tensor[] v, Tensor[] states, "
        "float eps) -> (Tensor[], Tensor[], Tensor[])",
    ]
    assert "'CPU' backend" in refused
