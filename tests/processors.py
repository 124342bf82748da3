"""Runs the tests marked `processor` on a processor that pretends to be others: `make test-processors`.

PyTorch, oneDNN and MKL choose their code by the instructions that the processor has, and split sums between threads.
Each choice rounds differently, and so is a fresh draw of the reference's errors and of the kernels'. A processor can
pretend to be an older one, not a newer one. What `make test` has run, this processor with one thread, is not run again.
What is left out is told.
"""

import os
import subprocess
import sys

import torch

PROCESSORS = {
    "DEFAULT": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "AVX512": {"ATEN_CPU_CAPABILITY": "avx512"},
}
"""What the libraries may use, from old to new, by the name that torch.backends.cpu.get_cpu_capability gives it.
The last is what all of them use by themselves."""

SELECTION = ("-m", "processor", "-k", "not triton")
"""Triton's interpreter computes with NumPy, whatever these variables say: `make test` has run it."""


def main() -> int:
    """1 if something failed, else 0."""
    here, names = torch.backends.cpu.get_cpu_capability(), list(PROCESSORS)
    if here not in names:
        print(f"Nothing to pretend: torch has one set of instructions here, {here}", flush=True)
        return int(not _passes({}, 2))
    passed = True
    for name, environment in PROCESSORS.items():
        if names.index(name) > names.index(here):
            print(f"{name}: left out, the best that torch finds on this processor is {here}", flush=True)
            continue
        for threads in (1, 2):
            if name == here == names[-1] and threads == 1:
                print(f"{name}, threads: 1: left out, `make test` is that", flush=True)
                continue
            print(f"{name}, threads: {threads}", flush=True)
            passed &= _obeyed(name, environment) and _passes(environment, threads)
    return int(not passed)


def _obeyed(name: str, environment: dict[str, str]) -> bool:
    question = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    answer = subprocess.run(
        [sys.executable, "-c", question], env={**os.environ, **environment}, check=True, capture_output=True, text=True
    ).stdout.strip()
    if answer != name:
        print(f"{name}: torch uses {answer} instead", flush=True)
    return answer == name


def _passes(environment: dict[str, str], threads: int) -> bool:
    # A worker of pytest-xdist has one thread: two of them where one thread is asked for.
    workers = ("-n", "2") if threads == 1 else ()
    command = [sys.executable, "-m", "pytest", "tests", *SELECTION, *workers]
    # Threads that wait for each other in a loop take minutes where another program has their core.
    openmp = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, env={**os.environ, **environment, **openmp}).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
