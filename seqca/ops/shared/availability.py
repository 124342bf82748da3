"""What each backend needs of the machine and of a call, whichever the operator.

The facts about the machine are collected at import and are plain values, so that the compiler can guard
them. Finding out imports neither Triton nor the extension and touches no GPU.
"""

import os
from importlib.util import find_spec

import torch

from seqca import extension

from .operator import Call

TRITON_INSTALLED = find_spec("triton") is not None
KERNELS_INSTALLED = find_spec("seqca.kernels") is not None
TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def triton_refusal(call: Call) -> str | None:
    """Why Triton cannot run a call, or None."""
    if not TRITON_INSTALLED:
        return "Triton is not installed"
    if not KERNELS_INSTALLED:
        return "seqca.kernels is not installed with this seqca, a checkout's folder (pip install -e . in it)"
    if call.device != "cuda" and not (TRITON_INTERPRETED and call.device == "cpu"):
        return f"needs CUDA tensors (or CPU tensors and TRITON_INTERPRET=1), these are on {call.device}"
    if call.dtype not in _KERNEL_DTYPES:
        return f"computes in float32, bfloat16 and float16, not {call.dtype}"
    if TRITON_INTERPRETED and call.dtype == torch.bfloat16:
        return "Triton's interpreter computes bfloat16 wrongly"
    return None


def cuda_refusal(call: Call) -> str | None:
    """Why the CUDA C++ extension cannot run a call, or None."""
    if extension.ABSENCE is not None:
        return extension.ABSENCE
    if call.device != "cuda":
        return f"needs CUDA tensors, these are on {call.device}"
    if call.dtype not in _KERNEL_DTYPES:
        return f"computes in float32, bfloat16 and float16, not {call.dtype}"
    return None
