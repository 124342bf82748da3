"""From the maps of all scales to a dense prediction: aggregation, batch norm, ReLU and the last 1×1 convolution.

Every backend's module offers, with layers = (weight, bias, norm_weight, norm_bias, prediction_weight, prediction_bias),

    forward(maps, order, *layers, running_mean, running_var, eps, group)
        -> (prediction, mean, unbiased variance, *kept)
    backward(grad, maps, order, *layers, *kept, training, group) -> (gradients of the maps, then of the layers)

Maps come once each; `order` has for each place of the concatenation the index of its map. Kept are 1/σ; on `aten` what
the mean of y exceeds the centred sum by, and the moments of the maps, on `triton` the mean of y less its bias. Under a
process group (by its name, "" for none) the sums of all processes are gathered between the statistics and the
predictions, and between the pass backward and what follows from its sums.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from seqca.reference.aggregation_head import aggregation_head as reference

from .aten.scatter import packed_length
from .samples.aggregation_head import SAMPLES
from .scale_aggregation import check_maps
from .shared.arguments import distinct_maps, given
from .shared.autocast import to_autocast_dtype
from .shared.checks import check_constant, check_kind, check_positive, check_tensor, check_vector
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
from .shared.synchronisation import check_group, group_name, refusals_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class AggregationHeadResult(NamedTuple):
    """What `aggregation_head` returns."""

    prediction: Tensor
    """(B, C_out, H_0, W_0), in the dtype of the maps."""
    mean: Tensor
    """Mean of what is normalised, over all images and pixels, (C,), without gradient."""
    variance: Tensor
    """Unbiased, as running variances take it: divided by T − 1 for T pixels in all."""


def aggregation_head(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    prediction_weight: Tensor,
    prediction_bias: Tensor | None = None,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    eps: float = 1e-5,
    group: "ProcessGroup | None" = None,
) -> AggregationHeadResult:
    """V · relu(batch_norm(y)) + c, where y = W · concat(up(X_0), up(X_1), …) + b as in `scale_aggregation`.

    y, which has C channels at the finest resolution, is never kept, nor on `aten` ever whole: backward computes it
    again from the maps, which with the statistics of the batch norm, and on `aten` the covariance of large maps, are
    all that is kept (Kim et al. 2022, section 2.4; the algebra is in docs/aggregation.md). On the backend `reference`
    this is `seqca.reference.aggregation_head`.

    Args:
        maps: (B, C_j, H_j, W_j), any strides, the first at the finest resolution; any ratio of sizes, per axis. A map
            that stands several times, as the same tensor object, is read once, by the sum of its columns of W; a view
            of it is another map, right but read again. float32, bfloat16, float16 or float64. Under autocast maps, W,
            b, V and c are cast to its dtype.
        weight: W (C, Σ C_j, 1, 1), as of a convolution.
        bias: b (C,).
        norm_weight, norm_bias: scale and shift of the batch norm, (C,), in the dtype of the maps or float32.
        prediction_weight: V (C_out, C, 1, 1).
        prediction_bias: c (C_out,).
        running_mean, running_var: (C,), in the dtype of the maps or float32: what y is normalised by (evaluation).
            Without them it is normalised by its own mean and variance (training), which are returned. They are not
            updated.
        eps: added to the variance, positive.
        group: processes over which mean and variance are taken (synchronised batch norm), each with its own images.
            Gradients of parameters are each process's share of their sum.

    Returns:
        Prediction, mean and variance; with running statistics these themselves.

    Raises:
        TypeError: if an argument is no tensor or list of tensors, or dtypes do not fit or are not supported.
        ValueError: if shapes or devices do not fit, a map is empty or larger than the first, or the mean is to be taken
            of a single pixel.
        BackendUnavailable: if a forced backend cannot run the call; `reference` cannot with a group.
        NotImplementedError: from a second derivative, a forward-mode one, or a transform of `torch.func` (`grad`,
            `vmap`, …), except on the backend `reference`.
    """
    distinct, order = distinct_maps(maps)
    for name, x in (("weight", weight), ("prediction_weight", prediction_weight)):
        check_tensor(name, x)
    for name, y in (("bias", bias), ("prediction_bias", prediction_bias)):
        if y is not None:
            check_tensor(name, y)
    *distinct, weight, prediction_weight = to_autocast_dtype([*distinct, weight, prediction_weight])
    bias, prediction_bias = (None if x is None else to_autocast_dtype([x])[0] for x in (bias, prediction_bias))
    check_maps(distinct, order, weight, bias)
    repeated = [distinct[i] for i in order]
    norm = (norm_weight, norm_bias, running_mean, running_var)
    _check_norm(repeated[0], len(weight), *norm, eps, group)
    _check_prediction(repeated[0], len(weight), prediction_weight, prediction_bias)
    backend = resolve(OPERATOR, _call(repeated, weight), refusals_of(group))
    if backend == "reference":
        layers = (weight, bias, norm_weight, norm_bias, prediction_weight, prediction_bias)
        return AggregationHeadResult(
            *reference(repeated, *layers, running_mean=running_mean, running_var=running_var, eps=eps)
        )
    parameters = given(weight, bias, norm_weight, norm_bias, prediction_weight, prediction_bias)
    refuse_forward_mode("aggregation_head", *distinct, *parameters)
    layers = (weight, bias, norm_weight, norm_bias, prediction_weight, prediction_bias)
    rest = (running_mean, running_var, eps, group_name(group), backend)
    prediction, mean, variance, *_ = call_fused("aggregation_head", _forward, distinct, order, *layers, *rest)
    if running_mean is not None and running_var is not None:
        mean, variance = running_mean, running_var
    return AggregationHeadResult(prediction, mean, variance)


@custom_operator("aggregation_head")
def _forward(
    maps: Sequence[Tensor],
    order: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    prediction_weight: Tensor,
    prediction_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    layers = (weight, bias, norm_weight, norm_bias, prediction_weight, prediction_bias)
    with kernel_scope(weight):
        implementation = OPERATOR.implementation(backend)
        return implementation.forward(maps, order, *layers, running_mean, running_var, eps, group)


@custom_operator("aggregation_head_backward")
def _backward(
    grad: Tensor,
    maps: Sequence[Tensor],
    order: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    prediction_weight: Tensor,
    prediction_bias: Tensor | None,
    inverse: Tensor,
    excess: Tensor,
    moments: Tensor,
    training: bool,
    group: str,
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    layers = (weight, bias, norm_weight, norm_bias, prediction_weight, prediction_bias)
    with kernel_scope(weight):
        implementation = OPERATOR.implementation(backend)
        return implementation.backward(grad, maps, order, *layers, inverse, excess, moments, training, group)


@_forward.register_fake
def _(
    maps: Sequence[Tensor],
    order: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    prediction_weight: Tensor,
    prediction_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    first = maps[order[0]]
    wide = torch.promote_types(weight.dtype, torch.float32)
    prediction = first.new_empty(first.shape[0], prediction_weight.shape[0], *first.shape[2:])
    mean, variance, inverse, excess = (weight.new_empty(weight.shape[0], dtype=wide) for _ in range(4))
    kept = packed_length(maps) if backend == "aten" and running_mean is None else 0
    moments = weight.new_empty(sum(x.shape[1] for x in maps) + kept, dtype=torch.float64)
    return prediction, mean, variance, inverse, excess, moments


@_backward.register_fake
def _(
    grad: Tensor,
    maps: Sequence[Tensor],
    order: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    prediction_weight: Tensor,
    prediction_bias: Tensor | None,
    inverse: Tensor,
    excess: Tensor,
    moments: Tensor,
    training: bool,
    group: str,
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        [x.new_empty(x.shape) for x in maps],
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[0]),
        norm_weight.new_empty(norm_weight.shape),
        norm_bias.new_empty(norm_bias.shape),
        prediction_weight.new_empty(prediction_weight.shape),
        prediction_weight.new_empty(prediction_weight.shape[0]),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    maps, ctx.order, weight, bias, norm_weight, norm_bias, prediction_weight, prediction_bias = inputs[:8]
    running_mean, _, _, ctx.group, ctx.backend = inputs[8:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros in place of gradients of the statistics
    ctx.training = running_mean is None
    # Backward computes nothing from the biases. They are kept because only then does the gradient depend on them for
    # autograd, so that a second derivative is refused whichever argument it is taken by.
    layers = (weight, bias, norm_weight, norm_bias, prediction_weight, prediction_bias)
    ctx.save_for_backward(*maps, *layers, *output[3:])


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    if grad is None:
        return ([None] * len(saved[:-9]), *[None] * 12)
    maps, kept = list(saved[:-9]), saved[-9:]
    d_maps, *d_layers = call_fused(
        "aggregation_head", _backward, grad, maps, ctx.order, *kept, ctx.training, ctx.group, ctx.backend
    )
    d_layers = [None if x is None else d for d, x in zip(d_layers, kept[:6], strict=True)]
    return (d_maps, None, *d_layers, *[None] * 5)


_forward.register_autograd(_differentiate, setup_context=_keep)
refuse_second_derivative(_backward, "aggregation_head")


def _check_norm(
    first: Tensor,
    channels: int,
    norm_weight: Tensor,
    norm_bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    group: "ProcessGroup | None",
) -> None:
    check_group(group)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean, running_var: got one of them, expected both or neither")
    named = {"norm_weight": norm_weight, "norm_bias": norm_bias}
    if running_mean is not None and running_var is not None:
        named |= {"running_mean": running_mean, "running_var": running_var}
        if group is not None:
            raise ValueError("group: got a process group beside running statistics, expected None")
    elif (group is None or group.size() == 1) and first.numel() == first.shape[1]:
        raise ValueError("maps: got a single pixel in all, expected at least two to take a variance of")
    for name, x in named.items():
        check_vector(name, x, channels)
        check_kind(name, x, first, torch.float32)
        if name.startswith("running"):
            check_constant(name, x)
    check_positive(eps=eps)


def _check_prediction(first: Tensor, channels: int, weight: Tensor, bias: Tensor | None) -> None:
    if weight.ndim != 4 or tuple(weight.shape[1:]) != (channels, 1, 1) or not len(weight):
        raise ValueError(f"prediction_weight: got shape {tuple(weight.shape)}, expected (C_out, {channels}, 1, 1)")
    check_kind("prediction_weight", weight, first)
    if bias is not None:
        check_vector("prediction_bias", bias, len(weight))
        check_kind("prediction_bias", bias, first)


def _call(maps: Sequence[Tensor], weight: Tensor, *_: Any, **__: Any) -> Call:
    batch, height, width = maps[0].shape[0], *maps[0].shape[2:]
    return Call(maps[0].device.type, maps[0].dtype, weight.shape[0], batch * height * width)


OPERATOR = register(
    Operator(
        name="aggregation_head",
        function=aggregation_head,
        reference=reference,
        samples=SAMPLES,
        describe=_call,
        channel_axis=1,
    )
)
