"""Compilers that answer questions as real ones do and compile nothing."""

from pathlib import Path


def script(path: Path, text: str) -> Path:
    """A shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def nvcc(root: Path, release: str, otherwise: str = 'echo "error: unsupported host compiler" >&2; exit 1') -> Path:
    """The nvcc of a toolkit of that release at `root`, which runs `otherwise` instead of compiling."""
    return script(
        root / "bin" / "nvcc",
        f'case "$*" in\n'
        f'  *--version*) echo "Cuda compilation tools, release {release}, V{release}.1";;\n'
        f'  *--dryrun*) echo "#\\$ TOP={root}" >&2;;\n'
        f"  *) {otherwise};;\n"
        f"esac",
    )


def compilers(folder: Path, cuda: str) -> dict[str, str]:
    """An environment with compilers whose every output is an empty file."""
    make = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && touch "$2"; shift; done'
    nvcc(folder / "toolkit", cuda, make)
    compiler = script(folder / "c++", f'case "$*" in *-dump*) echo 12;; *) {make};; esac')
    return {"CUDA_HOME": str(folder / "toolkit"), "CXX": str(compiler)}
