"""A 1×1 convolution over maps of several resolutions, without their concatenation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqca.reference.scale_aggregation import scale_aggregation as reference

from .samples.scale_aggregation import SAMPLES
from .shared.autocast import to_autocast_dtype
from .shared.checks import check_floating, check_tensor
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
    stands several times in the list, as the same tensor object, is read once, by the sum of its columns of W. On the
    backend `reference` this is `seqca.reference.scale_aggregation`.

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


@torch.library.custom_op("seqca::scale_aggregation", mutates_args=())
def _forward(maps: Sequence[Tensor], order: Sequence[int], weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    with kernel_scope(weight):
        return OPERATOR.implementation(backend).forward(maps, order, weight, bias)


@torch.library.custom_op("seqca::scale_aggregation_backward", mutates_args=())
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


def given(*tensors: Tensor | None) -> list[Tensor]:
    """Those that are not None."""
    return [x for x in tensors if x is not None]


def distinct_maps(maps: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Every tensor object of a list once, and for each place of the list the index of its own.

    Raises:
        TypeError: no list of tensors.
        ValueError: an empty one.
    """
    if not isinstance(maps, (list, tuple)) or not all(isinstance(x, Tensor) for x in maps):
        raise TypeError(f"maps: got {type(maps).__name__}, expected a list of tensors")
    if not maps:
        raise ValueError("maps: got no map, expected at least one")
    distinct: list[Tensor] = []
    order = []
    for place, x in enumerate(maps):
        check_tensor(f"maps[{place}]", x)
        found = [i for i, other in enumerate(distinct) if other is x]
        if not found:
            found = [len(distinct)]
            distinct.append(x)
        order.append(found[0])
    return distinct, order


def check_maps(maps: Sequence[Tensor], order: Sequence[int], weight: Tensor, bias: Tensor | None) -> None:
    """Refuses maps that do not fit together, and weights that do not fit them.

    Raises:
        TypeError: a dtype that operators do not compute in, or another one than that of the first map.
        ValueError: shapes or devices that do not fit.
    """
    first = maps[order[0]]
    check_floating("maps[0]", first)
    for place, i in enumerate(order):
        name, x = f"maps[{place}]", maps[i]
        check_kind(name, x, first)
        if x.ndim != 4 or 0 in x.shape:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected (B, C, H, W), not empty")
        if x.shape[0] != first.shape[0]:
            raise ValueError(f"{name}: got {x.shape[0]} images, expected {first.shape[0]} as in maps[0]")
        if x.shape[2] > first.shape[2] or x.shape[3] > first.shape[3]:
            got, most = tuple(x.shape[2:]), tuple(first.shape[2:])
            raise ValueError(f"{name}: got the size {got}, expected at most {most} as of maps[0], the finest")
    channels = sum(maps[i].shape[1] for i in order)
    if weight.ndim != 4 or tuple(weight.shape[1:]) != (channels, 1, 1) or not len(weight):
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, expected (C, {channels}, 1, 1)")
    check_kind("weight", weight, first)
    if bias is not None:
        check_vector("bias", bias, len(weight))
        check_kind("bias", bias, first)


def check_vector(name: str, x: Tensor, length: int) -> None:
    """Refuses what is no tensor of shape (length,).

    Raises:
        TypeError, ValueError: names it.
    """
    check_tensor(name, x)
    if tuple(x.shape) != (length,):
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected ({length},)")


def check_kind(name: str, x: Tensor, first: Tensor, *others: torch.dtype) -> None:
    """Refuses another dtype than that of the first map or the others allowed, and another device.

    Raises:
        TypeError, ValueError: names it.
    """
    if x.dtype != first.dtype and x.dtype not in others:
        expected = " or ".join(map(str, (first.dtype, *others)))
        raise TypeError(f"{name}: got {x.dtype}, expected {expected} as in maps[0]")
    if x.device != first.device:
        raise ValueError(f"{name}: got a tensor on {x.device}, expected {first.device} as in maps[0]")


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
