"""Linear attention in CUDA C++: two launches forward, two backward, for lists of maps of any strides.

csrc/linear_attention/kernels.h describes the algorithm. Tensors are read where they are; sums are float32.
"""

import torch
from torch import Tensor

from seqca.extension import load

from ..shared.operator import Call

MAX_CHANNELS = 72
"""Of keys and of values; the kernels are compiled for 18, 36 and 72."""


def limit(call: Call) -> str | None:
    """Why these kernels cannot run a call, or None."""
    if call.channels > MAX_CHANNELS:
        return f"the kernels hold at most {MAX_CHANNELS} channels, these are {call.channels}"
    return None


def forward(q: list[Tensor], k: list[Tensor], v: list[Tensor], eps: float) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs (..., N_q, E) in the dtype of the inputs, and states (..., E + 1, D) in float32, of each entry."""
    load()
    return torch.ops.seqca_cuda.linear_attention_forward(q, k, v, eps)


def backward(
    grad: list[Tensor], q: list[Tensor], k: list[Tensor], v: list[Tensor], states: list[Tensor], eps: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of q, k and v of each entry, contiguous, in the dtype of the inputs."""
    load()
    states = [state.contiguous() for state in states]
    return torch.ops.seqca_cuda.linear_attention_backward(grad, q, k, v, states, eps)
