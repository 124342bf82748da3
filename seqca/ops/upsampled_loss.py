"""Bilinear upsampling and a dense-prediction loss in one: the full-size prediction never exists.

Every backend's module offers

    forward(prediction, target, kind, ignore, positive_weight, needs_gradient) -> (loss, gradient, divisor)
    backward(grad, prediction, gradient, divisor) -> gradient of the prediction

where `gradient` is that of loss × divisor by the prediction, empty unless it is needed, and the divisor a scalar.
"""

from typing import Any

import torch
from torch import Tensor
from torch.func import debug_unwrap

from seqca.loss_type import Loss, check_arguments, check_label_values
from seqca.reference.upsampled_loss import upsampled_loss as reference

from .samples.upsampled_loss import SAMPLES
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
    refuse_vmap,
    register,
)

MAX_COUPLED_CHANNELS = 256
"""Channels of one pixel that Triton's kernel holds at once where the loss needs all of them together."""


def upsampled_loss(prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """Upsample the prediction bilinearly (align_corners=False) to the label's size and compare it with the label.

    The value and the gradient of `seqca.reference.upsampled_loss`, where the losses are written out. Kept for backward
    are the prediction and its gradient at its own resolution, computed in the forward pass, in float32 (float64 for
    float64); without gradient (`torch.no_grad`, a prediction that requires none) neither is computed nor kept. A batch
    whose pixels are all ignored has loss 0 and zero gradients.

    Args:
        prediction: raw network output (B, C, h, w), any strides; float32, bfloat16, float16 or float64. Autocast does
            not cast it, as torch's own losses are not computed in half precision.
        target: label on the same device, any strides: (B, H, W) int64 for "cross_entropy", else (B, C, H, W) floating
            (C = 1 for "two_class"). H ≥ h and W ≥ w, any ratio, per axis. No gradient flows into it.
        loss: which loss, and its ignore value and weight.

    Returns:
        Scalar; float32, or float64 for a float64 prediction.

    Raises:
        TypeError: arguments that are no tensors and no loss, or dtypes that do not fit.
        ValueError: shapes or devices that do not fit, or nothing in the batch; on the CPU, a class label outside
            [0, C) that is not the ignore value, or another label that is NaN or infinite, with its position. On a GPU
            such a label makes the loss and the gradients of the cells around it NaN: nothing is read out of bounds, and
            the host does not wait. (For class labels the backend `reference` stops the process.)
        BackendUnavailable: if a forced backend cannot run the call.
        NotImplementedError: from a second derivative, a forward-mode one, or a transform of `torch.func` (`grad`,
            `vmap`, …), except on the backend `reference`.
    """
    check_arguments(prediction, target, loss)
    check_floating("prediction", prediction)
    backend = resolve(OPERATOR, _call(prediction, target, loss))
    if backend == "reference":
        if _readable(target):
            check_label_values(target, prediction.shape[1], loss.kind, loss.ignore)
        return reference(prediction, target, loss)
    refuse_forward_mode("upsampled_loss", prediction)
    needs_gradient = torch.is_grad_enabled() and prediction.requires_grad
    settings = (loss.kind, loss.ignore, loss.positive_weight, needs_gradient, backend)
    return call_fused("upsampled_loss", _forward, prediction, target.detach(), *settings)[0]


@custom_operator("upsampled_loss")
def _forward(
    prediction: Tensor,
    target: Tensor,
    kind: str,
    ignore: float | None,
    positive_weight: float | None,
    needs_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with kernel_scope(prediction):
        implementation = OPERATOR.implementation(backend)
        return implementation.forward(prediction, target, kind, ignore, positive_weight, needs_gradient)


@custom_operator("upsampled_loss_backward")
def _backward(grad: Tensor, prediction: Tensor, gradient: Tensor, divisor: Tensor, backend: str) -> Tensor:
    with kernel_scope(prediction):
        return OPERATOR.implementation(backend).backward(grad, prediction, gradient, divisor)


@_forward.register_fake
def _(
    prediction: Tensor,
    target: Tensor,
    kind: str,
    ignore: float | None,
    positive_weight: float | None,
    needs_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.float64 if prediction.dtype == torch.float64 else torch.float32
    gradient = prediction.new_empty(prediction.shape if needs_gradient else 0, dtype=wide)
    return prediction.new_empty((), dtype=wide), gradient, prediction.new_empty((), dtype=wide)


@_backward.register_fake
def _(grad: Tensor, prediction: Tensor, gradient: Tensor, divisor: Tensor, backend: str) -> Tensor:
    return prediction.new_empty(prediction.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, *_, ctx.backend = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros in place of gradients of the kept tensors
    # Backward computes nothing from the prediction. It is kept because only then does the gradient depend on it for
    # autograd and the compiler, so that a second derivative is refused instead of taken for zero.
    ctx.save_for_backward(prediction, *output[1:])


def _differentiate(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return (call_fused("upsampled_loss", _backward, grad, *ctx.saved_tensors, ctx.backend), *[None] * 6)


_forward.register_autograd(_differentiate, setup_context=_keep)
refuse_second_derivative(_backward, "upsampled_loss")
refuse_vmap(_forward, "upsampled_loss")  # whose slices hide whether a gradient will be needed


def _readable(target: Tensor) -> bool:
    """Whether looking at the values costs little and is possible: on a CPU, outside compilation and transforms."""
    plain = not torch.compiler.is_compiling() and type(target) is Tensor and debug_unwrap(target) is target
    return plain and target.device.type == "cpu"


def _call(prediction: Tensor, target: Tensor, loss: Loss) -> Call:
    coupled = loss.kind in ("cross_entropy", "unit_l1")
    batch, channels = prediction.shape[:2]
    pixels = batch * target.shape[-2] * target.shape[-1]
    return Call(prediction.device.type, prediction.dtype, channels if coupled else 1, pixels)


def _triton_limit(call: Call) -> str | None:
    if call.channels > MAX_COUPLED_CHANNELS:
        return f"takes up to {MAX_COUPLED_CHANNELS} classes, not {call.channels}"
    return None


OPERATOR = register(
    Operator(
        name="upsampled_loss",
        function=upsampled_loss,
        reference=reference,
        samples=SAMPLES,
        describe=_call,
        limits={"triton": _triton_limit},
        casts=False,
        channel_axis=1,
    )
)
