"""A 1×1 convolution over maps of several resolutions, without their concatenation.

Every backend's module offers

    forward(maps, order, weight, bias) -> y
    backward(grad, maps, order, weight, bias) -> (gradients of the maps, of the weight, of the bias)

Maps come once each; `order` has for each place of the concatenation the index of its map. The bias of backward is not
read.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from seqca.reference.scale_aggregation import scale_aggregation as reference

from .samples.scale_aggregation import SAMPLES
from .shared.arguments import distinct_maps, given
from .shared.autocast import to_autocast_dtype
from .shared.checks import check_alike, check_kind, check_tensor, check_vector
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


def scale_aggregation(maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = W · concat(up(X_0), up(X_1), …) + b, everything upsampled bilinearly to the size of the first map.

    A 1×1 convolution commutes with bilinear upsampling (align_corners=False), so that products are computed at each
    map's own resolution, and nothing upsampled is kept for backward: the maps and the weight alone are. A map that
    stands several times in the list, as the same tensor object, is read once, by the sum of its columns of W; a view of
    it is another map, right but read again. On the backend `reference` this is `seqca.reference.scale_aggregation`.

    Args:
        maps: (B, C_j, H_j, W_j), any strides, the first at the finest resolution; any ratio of sizes, per axis.
            float32, bfloat16, float16 or float64. Under autocast all arguments are cast to its dtype.
        weight: (C, Σ C_j, 1, 1), as of a convolution.
        bias: (C,).

    Returns:
        (B, C, H_0, W_0), contiguous, in the dtype of the maps (after autocast).

    Raises:
        TypeError: if an argument is no tensor or list of tensors, or dtypes differ or are not supported.
        ValueError: if shapes or devices do not fit, or a map is empty or larger than the first.
        BackendUnavailable: if a forced backend cannot run the call.
        NotImplementedError: from a second derivative, a forward-mode one, or a transform of `torch.func` (`grad`,
            `vmap`, …), except on the backend `reference`.
    """
    distinct, order = distinct_maps(maps)
    check_tensor("weight", weight)
    if bias is not None:
        check_tensor("bias", bias)
    *distinct, weight = to_autocast_dtype([*distinct, weight])
    bias = None if bias is None else to_autocast_dtype([bias])[0]
    check_maps(distinct, order, weight, bias)
    backend = resolve(OPERATOR, _call([distinct[i] for i in order], weight))
    if backend == "reference":
        return reference([distinct[i] for i in order], weight, bias)
    refuse_forward_mode("scale_aggregation", *distinct, weight, *given(bias))
    return call_fused("scale_aggregation", _forward, distinct, order, weight, bias, backend)


@custom_operator("scale_aggregation")
def _forward(maps: Sequence[Tensor], order: Sequence[int], weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    with kernel_scope(weight):
        return OPERATOR.implementation(backend).forward(maps, order, weight, bias)


@custom_operator("scale_aggregation_backward")
def _backward(
    grad: Tensor, maps: Sequence[Tensor], order: Sequence[int], weight: Tensor, bias: Tensor | None, backend: str
) -> tuple[list[Tensor], Tensor, Tensor]:
    with kernel_scope(weight):
        return OPERATOR.implementation(backend).backward(grad, maps, order, weight, bias)


@_forward.register_fake
def _(maps: Sequence[Tensor], order: Sequence[int], weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    first = maps[order[0]]
    return first.new_empty(first.shape[0], weight.shape[0], *first.shape[2:])


@_backward.register_fake
def _(
    grad: Tensor, maps: Sequence[Tensor], order: Sequence[int], weight: Tensor, bias: Tensor | None, backend: str
) -> tuple[list[Tensor], Tensor, Tensor]:
    return [x.new_empty(x.shape) for x in maps], weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, ctx.order, weight, bias, ctx.backend = inputs
    # Backward computes nothing from the bias. It is kept because only then does the gradient depend on it for autograd,
    # so that a second derivative is refused whichever argument it is taken by.
    ctx.save_for_backward(*maps, weight, bias)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *maps, weight, bias = ctx.saved_tensors
    d_maps, d_weight, d_bias = call_fused(
        "scale_aggregation", _backward, grad, maps, ctx.order, weight, bias, ctx.backend
    )
    return d_maps, None, d_weight, None if bias is None else d_bias, None


_forward.register_autograd(_differentiate, setup_context=_keep)
refuse_second_derivative(_backward, "scale_aggregation")


def check_maps(maps: Sequence[Tensor], order: Sequence[int], weight: Tensor, bias: Tensor | None) -> None:
    """Refuses maps that do not fit together, and weights that do not fit them.

    Raises:
        TypeError: a dtype that operators do not compute in, or another one than that of the first map.
        ValueError: shapes or devices that do not fit.
    """
    first = maps[order[0]]
    check_alike([maps[i] for i in order])
    for place, i in enumerate(order):
        got, most = tuple(maps[i].shape[2:]), tuple(first.shape[2:])
        if got[0] > most[0] or got[1] > most[1]:
            raise ValueError(f"maps[{place}]: got the size {got}, expected at most {most} as of maps[0], the finest")
    channels = sum(maps[i].shape[1] for i in order)
    if weight.ndim != 4 or tuple(weight.shape[1:]) != (channels, 1, 1) or not len(weight):
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, expected (C, {channels}, 1, 1)")
    check_kind("weight", weight, first)
    if bias is not None:
        check_vector("bias", bias, len(weight))
        check_kind("bias", bias, first)


def _call(maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None) -> Call:
    batch, _, height, width = maps[0].shape
    return Call(maps[0].device.type, maps[0].dtype, weight.shape[0], batch * height * width)


OPERATOR = register(
    Operator(
        name="scale_aggregation",
        function=scale_aggregation,
        reference=reference,
        samples=SAMPLES,
        describe=_call,
        channel_axis=1,
    )
)
