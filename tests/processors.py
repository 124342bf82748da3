"""Runs the tests marked `processor` on a processor that pretends to be others: `make test-processors`.

PyTorch, oneDNN and MKL choose their code by the instructions that the processor has, and split sums between threads.
Each choice rounds differently, and so is a fresh draw of the reference's errors and of the kernels'. To save time not
all pairs of choices are tried: older instructions with one thread, as two processes, and two threads with this
processor's own. A processor can pretend to be an older one, not a newer one. What `make test` has run, this processor
with one thread, is not run again. What is left out is told.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

PROCESSORS = {
    "DEFAULT": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "AVX512": {"ATEN_CPU_CAPABILITY": "avx512"},
}
"""What the libraries may use, from old to new, by the name that torch.backends.cpu.get_cpu_capability gives it.
The last is what all of them use by themselves."""

ONEDNN = {"DEFAULT": "SSE4.1", "AVX2": "AVX2"}
"""What oneDNN says that it is held to."""

MKL = {"DEFAULT": "COMPATIBLE", "AVX2": "AVX2"}
"""What MKL says that it is held to on processors of Intel; on others it may know better."""

QUESTION = """
import torch
print("ATen", torch.backends.cpu.get_cpu_capability(), flush=True)
with torch.no_grad(), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
    torch.nn.Conv2d(64, 64, 3)(torch.ones(2, 64, 32, 32))
torch.ones(64, 64) @ torch.ones(64, 64)
"""
"""A convolution, which oneDNN computes, and a product, which MKL computes: both then say what they use."""

SELECTION = ("-m", "processor", "-k", "not triton or linear_attention-triton-18-1-")
"""Triton's interpreter computes with NumPy, whatever these variables say, and `make test` has run it. What it is judged
by is drawn anew on each processor, of which one operator's smallest calls are the proof; all would take an hour."""


def main() -> int:
    """1 if something failed, else 0."""
    here, names = torch.backends.cpu.get_cpu_capability(), list(PROCESSORS)
    if here not in names or platform.machine().lower() not in ("x86_64", "amd64"):
        print(f"Nothing to pretend: torch has one set of instructions here, {here}", flush=True)
        return int(not _passes({}, 2))
    passed = True
    for name, environment in PROCESSORS.items():
        if names.index(name) > names.index(here):
            print(f"{name}: left out, the best that torch finds on this processor is {here}", flush=True)
            continue
        threads = 2 if name == here else 1
        print(f"{name}, threads: {threads}", flush=True)
        passed &= _obeyed(name, environment) and _passes(environment, threads)
    return int(not passed)


def _obeyed(name: str, environment: dict[str, str]) -> bool:
    answer = subprocess.run(
        [sys.executable, "-c", QUESTION],
        env={**os.environ, **environment, "MKL_VERBOSE": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    description = Path("/proc/cpuinfo")
    of_intel = description.exists() and "GenuineIntel" in description.read_text()
    faults = disobedience(
        name, answer, torch.backends.mkldnn.is_available(), of_intel and torch.backends.mkl.is_available()
    )
    print(*faults or [f"{name}: in use"], sep="\n", flush=True)
    return not faults


def disobedience(name: str, answer: str, onednn: bool, mkl: bool) -> list[str]:
    """Which libraries use something else than they were told, by what `QUESTION` printed.

    Args:
        name: of the processor that is pretended.
        answer: what was printed.
        onednn, mkl: whether torch has them, MKL on a processor of Intel.
    """
    expected = {"ATen": name}
    if onednn and name in ONEDNN:
        expected["oneDNN"] = ONEDNN[name]
    if mkl and name in MKL:
        expected["MKL"] = MKL[name]
    patterns = {"ATen": r"ATen (\S+)", "oneDNN": r"isa:(?:Intel )?(\S+)", "MKL": r"CNR:(\S+)"}
    used = {library: re.findall(patterns[library], answer) for library in expected}
    return [
        f"{name}: {library} uses {' '.join(used[library]) or 'nothing that it tells'} instead of {what}"
        for library, what in expected.items()
        if set(used[library]) != {what}
    ]


def _passes(environment: dict[str, str], threads: int) -> bool:
    # A worker of pytest-xdist has one thread: two of them where one thread is asked for.
    workers = ("-n", "2") if threads == 1 else ()
    command = [sys.executable, "-m", "pytest", "tests", *SELECTION, *workers]
    # Threads that wait for each other in a loop take minutes where another program has their core.
    openmp = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, env={**os.environ, **environment, **openmp}).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
