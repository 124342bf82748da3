"""The sources, compiled with the host's C++ compiler, and calling the emulated kernels."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
FLAGS = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}", f"-I{Path(__file__).parent}")
NUMBERS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def source_tree(folder: Path) -> Path:
    """A copy of the sources, without binaries, to build a distribution from."""
    for name in ("seqca", "kernels", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_C.*"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def compile_on_host(source: str, output: Path, *flags: str) -> Path:
    """Compiles one file of this folder, warnings being errors."""
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler, "the tests of csrc/ need a C++ compiler (g++ or c++)"
    command = [compiler, *FLAGS, *flags, str(Path(__file__).parent / source), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return output


class _HostTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dimensions", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * 8),
        ("strides", ctypes.c_int64 * 8),
    )

    @classmethod
    def of(cls, tensor: Tensor) -> "_HostTensor":
        eight = ctypes.c_int64 * 8
        return cls(tensor.data_ptr(), tensor.ndim, eight(*tensor.shape), eight(*tensor.stride()))


class _HostMaps(ctypes.Structure):
    _fields_ = (
        *((name, _HostTensor) for name in ("q", "k", "v", "grad")),
        *((name, ctypes.c_void_p) for name in ("state", "output", "dq", "dk", "dv")),
    )


def _poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


class EmulatedKernels:
    """Forward and backward of the CUDA kernels, block by block and lane by lane on the host."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.linear_attention.restype = ctypes.c_int64
        self.products = 0
        """Products of tensor cores in the last call."""

    def _run(self, forward: bool, maps: list[_HostMaps], dtype: torch.dtype, eps: float, blocks: int) -> None:
        self.products = self._library.linear_attention(
            int(forward),
            NUMBERS[dtype],
            (_HostMaps * len(maps))(*maps),
            ctypes.c_int64(len(maps)),
            ctypes.c_double(eps),
            blocks,
        )

    def forward(
        self, q: list[Tensor], k: list[Tensor], v: list[Tensor], eps: float, blocks: int = 528
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs and states; launches aim at `blocks` blocks."""
        outputs, states, maps = [], [], []
        for x, y, w in zip(q, k, v, strict=True):
            outputs.append(_poisoned(*x.shape[:-1], w.shape[-1], dtype=x.dtype))
            states.append(_poisoned(*x.shape[:-2], w.shape[-1] + 1, x.shape[-1], dtype=torch.float32))
            q_, k_, v_ = map(_HostTensor.of, (x, y, w))
            maps.append(_HostMaps(q_, k_, v_, state=states[-1].data_ptr(), output=outputs[-1].data_ptr()))
        self._run(True, maps, q[0].dtype, eps, blocks)
        return outputs, states

    def backward(
        self,
        grad: list[Tensor],
        q: list[Tensor],
        k: list[Tensor],
        v: list[Tensor],
        states: list[Tensor],
        eps: float,
        blocks: int = 528,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Gradients of q, k and v."""
        dq, dk, dv = ([_poisoned(*x.shape, dtype=x.dtype) for x in tensors] for tensors in (q, k, v))
        maps = []
        for i, entry in enumerate(zip(q, k, v, grad, strict=True)):
            pointers = (x[i].data_ptr() for x in (states, dq, dk, dv))
            state, dq_, dk_, dv_ = pointers
            maps.append(_HostMaps(*map(_HostTensor.of, entry), state=state, dq=dq_, dk=dk_, dv=dv_))
        self._run(False, maps, q[0].dtype, eps, blocks)
        return dq, dk, dv

    def shared_memory(self, dtype: torch.dtype, channels: int) -> list[int]:
        """Bytes of shared memory of the four kernels in their class of channels."""
        sizes = (ctypes.c_int32 * 4)()
        self._library.shared_memory(NUMBERS[dtype], channels, sizes)
        return list(sizes)
