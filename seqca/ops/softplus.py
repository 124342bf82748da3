"""Softplus that keeps its result for backward instead of its argument.

Every backend's module offers `forward(x) -> y` and `backward(grad, y) -> dx`.
"""

from typing import Any

import torch
from torch import Tensor

from seqca.reference.softplus import softplus as reference

from .samples.softplus import SAMPLES
from .shared.checks import check_floating
from .shared.custom import custom_operator
from .shared.dispatch import resolve
from .shared.operator import (
    Call,
    Operator,
    call_fused,
    kernel_scope,
    refuse_forward_mode,
    refuse_second_derivative,
    register,
)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), elementwise: the feature map of queries and keys (Kim, Choi, Min, ICIP 2022, section 2.2).

    Only the result y is kept for backward, as dy/dx = 1 − e^(−y). `linear_attention` keeps q and k anyway, so that
    the feature map adds nothing to them. A result that rounds to 0, which in float16 is one of x < −17.3, has
    gradient 0. On the backend `reference` this is `seqca.reference.softplus`, which keeps x.

    Args:
        x: any shape and strides; float32, bfloat16, float16 or float64. Autocast does not cast it: half precision is
            computed in float32 and rounded once.

    Returns:
        Of the shape and dtype of x, without gaps in memory, dimensions in the order of x (`torch.empty_like`).

    Raises:
        TypeError: if x is no tensor or of another dtype.
        BackendUnavailable: if a forced backend cannot run the call.
        NotImplementedError: from a second derivative, a forward-mode one, or a transform of `torch.func` (`grad`,
            `vmap`, …), except on the backend `reference`. A compiled graph that keeps none of its inputs refuses the
            second as for `torch.exp`: an input was not used (RuntimeError).
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor")
    check_floating("x", x)
    backend = resolve(OPERATOR, _call(x))
    if backend == "reference":
        return reference(x)
    refuse_forward_mode("softplus", x)
    return call_fused("softplus", _forward, x, backend)


@custom_operator("softplus")
def _forward(x: Tensor, backend: str) -> Tensor:
    with kernel_scope(x):
        return OPERATOR.implementation(backend).forward(x)


@custom_operator("softplus_backward")
def _backward(grad: Tensor, y: Tensor, backend: str) -> Tensor:
    with kernel_scope(y):
        return OPERATOR.implementation(backend).backward(grad, y)


@_forward.register_fake
def _(x: Tensor, backend: str) -> Tensor:
    return torch.empty_like(x)


@_backward.register_fake
def _(grad: Tensor, y: Tensor, backend: str) -> Tensor:
    return torch.empty_like(y)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.backend = inputs[1]
    ctx.save_for_backward(output)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return call_fused("softplus", _backward, grad, *ctx.saved_tensors, ctx.backend), None


_forward.register_autograd(_differentiate, setup_context=_keep)
refuse_second_derivative(_backward, "softplus")


def _call(x: Tensor) -> Call:
    return Call(x.device.type, x.dtype, 1, x.numel())


OPERATOR = register(
    Operator(
        name="softplus",
        function=softplus,
        reference=reference,
        samples=SAMPLES,
        describe=_call,
        casts=False,
        channel_axis=1,
    )
)
