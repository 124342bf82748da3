"""Convolutions with batch norm and ReLU, as chains and residual blocks, of which convolutions' outputs are kept.

Every backend's module offers, with layers = (weights, norm_weights, norm_biases, residual) and
structure = (strides, projection, batches),

    forward(maps, *layers, *structure, running_means, running_vars, eps, group)
        -> (output, means, unbiased variances, inverses, kept)
    backward(grad, maps, *layers, means, inverses, kept, *structure, training, group)
        -> gradients of (maps, weights, norm_weights, norm_biases, residual), that of no residual empty

Statistics are lists by layer, those of all batches in one, (batches · C_i,), with running ones (C_i,); `inverses` are
those of 1/σ. Kept are the outputs of the convolutions of `norm_block.kept_layers`. Under a process group (by its name,
"" for none) the sums of all processes are gathered for each norm, forward and backward.
"""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from seqca.reference.norm_relu import norm_relu as reference

from .samples.norm_relu import SAMPLES
from .shared.arguments import given
from .shared.autocast import to_autocast_dtype
from .shared.checks import (
    check_alike,
    check_constant,
    check_kind,
    check_list,
    check_positive,
    check_tensor,
    check_vector,
)
from .shared.custom import custom_operator
from .shared.dispatch import resolve
from .shared.norm_block import kept_layers, memory_format, output_sizes
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


class NormReLUResult(NamedTuple):
    """What `norm_relu` returns."""

    output: Tensor
    """(batches · B, C, H', W'), in the dtype of the maps."""
    means: list[Tensor]
    """By layer, of what is normalised, over all images and pixels, (C_i,), without gradient; of several batches
    (batches, C_i), each over its own."""
    variances: list[Tensor]
    """Likewise, unbiased, as running variances take them: divided by T − 1 for T pixels in all."""


def norm_relu(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    projection: bool = False,
    batches: int = 1,
    running_means: Sequence[Tensor] | None = None,
    running_vars: Sequence[Tensor] | None = None,
    eps: float = 1e-5,
    group: "ProcessGroup | None" = None,
) -> NormReLUResult:
    """relu(BN(x) + residual) of maps, or behind a chain of convolutions: h ← relu(BN(conv(h))), layer after layer.

    With two convolutions and a residual it is the basic block, with three the bottleneck (He et al. 2016). The maps'
    concatenation, what a convolution reads and the residual's projection are never kept: backward computes them again
    from the maps, the outputs of the convolutions and the statistics, which are all that is kept (docs/blocks.md). On
    the backend `reference` this is `seqca.reference.norm_relu`.

    Convolutions are torch's: on a GPU the same bits in every run where `torch.backends.cudnn.deterministic` is set, and
    TF32 where `torch.backends.cudnn.allow_tf32` is, as it is by default.

    Args:
        maps: (B, C_j, H, W) of one size, any strides, concatenated in the channels. float32, bfloat16, float16 or
            float64. Under autocast maps and residual are cast to its dtype. Of several batches those of each one after
            the other, of the same channels.
        weights: of the convolutions, (C_i, C_{i−1}, k, k) with odd k, without bias, padded by k // 2, in the dtype of
            the maps, or in float32 and then rounded to it. Without any there is one norm, which is of the maps
            themselves.
        norm_weights, norm_biases: scale and shift of the batch norms, (C_i,), in the dtype of the maps or float32.
        residual: of the shape of the output, added behind the last norm.
        strides: of the convolutions, by default 1.
        projection: whether the last convolution and norm are the residual's, which they make of the concatenation.
        batches: how many the maps are of. All are computed together, and give what a call for each would, one after the
            other in the images of the output: each is normalised by statistics of its own.
        running_means, running_vars: by layer, (C_i,), in the dtype of the maps or float32: what is normalised by
            (evaluation). Without them it is mean and variance of the batch (training), which are returned. They are not
            updated.
        eps: added to the variances, positive.
        group: processes over which means and variances are taken (synchronised batch norm), each with its own images.
            Gradients of parameters are each process's share of their sum.

    Returns:
        Output, means and variances; with running statistics these themselves.

    Raises:
        TypeError: if an argument is no tensor, list of tensors or number as it should be, or dtypes do not fit or are
            not supported.
        ValueError: if shapes, devices or lengths of lists do not fit, there is no batch, a map is empty, or the mean is
            to be taken of a single pixel.
        BackendUnavailable: if a forced backend cannot run the call; `reference` cannot with a group.
        NotImplementedError: from a second derivative, a forward-mode one, or a transform of `torch.func` (`grad`,
            `vmap`, …), except on the backend `reference`.
    """
    lists = {"maps": maps, "weights": weights, "norm_weights": norm_weights, "norm_biases": norm_biases}
    if (running_means is None) != (running_vars is None):
        raise ValueError("running_means, running_vars: got one of them, expected both or neither")
    if running_means is not None and running_vars is not None:
        lists |= {"running_means": running_means, "running_vars": running_vars}
        if group is not None:
            raise ValueError("group: got a process group beside running statistics, expected None")
    for name, tensors in lists.items():
        check_list(name, tensors)
    if residual is not None:
        check_tensor("residual", residual)
        (residual,) = to_autocast_dtype([residual])
    maps = to_autocast_dtype(maps)
    if not isinstance(projection, bool):
        raise TypeError(f"projection: got {projection!r}, expected True or False")
    if strides is not None and not isinstance(strides, (list, tuple)):
        raise TypeError(f"strides: got {strides!r}, expected a list of integers, one for each convolution")
    steps = [1] * len(weights) if strides is None else list(strides)
    _check_maps(maps, batches)
    _check_layers(maps[: len(maps) // batches], lists | {"weights": weights}, steps, projection)
    sizes = output_sizes((maps[0].shape[2], maps[0].shape[3]), weights, steps, projection)
    _check_residual(maps[0], residual, batches, len(norm_weights[-1]), sizes, projection)
    check_group(group)
    single = any(maps[0].shape[0] * height * width == 1 for height, width in sizes)
    if single and running_means is None and (group is None or group.size() == 1):
        raise ValueError("maps: got a single pixel behind a layer, expected at least two to take a variance of")
    check_positive(eps=eps)
    backend = resolve(OPERATOR, _call(maps, weights, norm_weights, batches=batches), refusals_of(group))
    if backend == "reference":
        return NormReLUResult(
            *reference(
                maps,
                [weight.to(maps[0].dtype) for weight in weights],
                norm_weights,
                norm_biases,
                residual,
                strides=steps,
                projection=projection,
                batches=batches,
                running_means=running_means,
                running_vars=running_vars,
                eps=eps,
            )
        )
    refuse_forward_mode("norm_relu", *maps, *weights, *norm_weights, *norm_biases, *given(residual))
    layers = (weights, list(norm_weights), list(norm_biases), residual)
    running = ([], []) if running_means is None or running_vars is None else (list(running_means), list(running_vars))
    rest = (steps, projection, batches, *running, float(eps), group_name(group), backend)
    output, means, variances, *_ = call_fused("norm_relu", _forward, maps, *layers, *rest)
    if running_means is not None and running_vars is not None:
        return NormReLUResult(output, list(running_means), list(running_vars))
    if batches > 1:
        means, variances = ([x.view(batches, -1) for x in found] for found in (means, variances))
    return NormReLUResult(output, means, variances)


@custom_operator("norm_relu")
def _forward(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    strides: Sequence[int],
    projection: bool,
    batches: int,
    running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor],
    eps: float,
    group: str,
    backend: str,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    layers = (weights, norm_weights, norm_biases, residual, strides, projection, batches)
    with kernel_scope(maps[0]):
        return OPERATOR.implementation(backend).forward(maps, *layers, running_means, running_vars, eps, group)


@custom_operator("norm_relu_backward")
def _backward(
    grad: Tensor,
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    means: Sequence[Tensor],
    inverses: Sequence[Tensor],
    kept: Sequence[Tensor],
    strides: Sequence[int],
    projection: bool,
    batches: int,
    training: bool,
    group: str,
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
    layers = (weights, norm_weights, norm_biases, residual, means, inverses, kept, strides, projection, batches)
    with kernel_scope(maps[0]):
        return OPERATOR.implementation(backend).backward(grad, maps, *layers, training, group)


@_forward.register_fake
def _(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    strides: Sequence[int],
    projection: bool,
    batches: int,
    running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor],
    eps: float,
    group: str,
    backend: str,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    first, rows = maps[0], [weight.shape[0] for weight in norm_weights]
    sizes = output_sizes((first.shape[2], first.shape[3]), weights, strides, projection)
    order = memory_format(maps)

    def of_layer(layer: int) -> Tensor:
        shape = (batches * first.shape[0], rows[layer], *sizes[layer])
        return torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=order)

    wide = torch.promote_types(first.dtype, torch.float32)
    sets = 1 if running_means else batches
    means, variances, inverses = ([first.new_empty(sets * n, dtype=wide) for n in rows] for _ in range(3))
    kept = [of_layer(layer) for layer in kept_layers(weights, projection)]
    return of_layer(len(rows) - 1 - projection), means, variances, inverses, kept


@_backward.register_fake
def _(
    grad: Tensor,
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    means: Sequence[Tensor],
    inverses: Sequence[Tensor],
    kept: Sequence[Tensor],
    strides: Sequence[int],
    projection: bool,
    batches: int,
    training: bool,
    group: str,
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
    order = memory_format(maps)

    def like(x: Tensor) -> Tensor:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=order)

    d_weights, d_scales, d_shifts = (
        [x.new_empty(x.shape) for x in tensors] for tensors in (weights, norm_weights, norm_biases)
    )
    d_residual = grad.new_empty(0) if residual is None else like(residual)
    return [like(x) for x in maps], d_weights, d_scales, d_shifts, d_residual


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    maps, weights, norm_weights, norm_biases, residual, ctx.strides, ctx.projection, ctx.batches = inputs[:8]
    running_means, _, _, ctx.group, ctx.backend = inputs[8:]
    _, means, variances, inverses, kept = output
    ctx.mark_non_differentiable(*means, *variances, *inverses, *kept)
    ctx.set_materialize_grads(False)  # no zeros in place of gradients of the statistics
    ctx.training = not running_means
    ctx.no_gradients = [None] * len(running_means)
    lists = (maps, weights, norm_weights, norm_biases, means, inverses, kept)
    ctx.counts = list(map(len, lists))
    ctx.save_for_backward(*chain(*lists), residual)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    *saved, residual = ctx.saved_tensors
    # To torch an empty list is one of tensors.
    rest: tuple[Any, ...] = (None if ctx.strides else [], None, None)
    rest += (ctx.no_gradients, ctx.no_gradients, None, None, None)
    if grad is None:
        return (*[[None] * n for n in ctx.counts[:4]], None, *rest)
    remaining = iter(saved)
    maps, *parameters, means, inverses, kept = ([next(remaining) for _ in range(n)] for n in ctx.counts)
    layers = (*parameters, residual, means, inverses, kept, ctx.strides, ctx.projection, ctx.batches)
    *gradients, d_residual = call_fused(
        "norm_relu", _backward, grad, maps, *layers, ctx.training, ctx.group, ctx.backend
    )
    return (*gradients, None if residual is None else d_residual, *rest)


_forward.register_autograd(_differentiate, setup_context=_keep)
refuse_second_derivative(_backward, "norm_relu")


def _check_maps(maps: Sequence[Tensor], batches: int) -> None:
    if not isinstance(batches, int) or isinstance(batches, bool):
        raise TypeError(f"batches: got {batches!r}, expected an integer")
    if batches < 1:
        raise ValueError(f"batches: got {batches}, expected at least one")
    if not maps:
        raise ValueError("maps: got no map, expected at least one")
    if len(maps) % batches:
        raise ValueError(f"maps: got {len(maps)}, expected as many for each of {batches} batches")
    check_alike(maps)
    for i, x in enumerate(maps):
        if x.shape[2:] != maps[0].shape[2:]:
            got, first = tuple(x.shape[2:]), tuple(maps[0].shape[2:])
            raise ValueError(f"maps[{i}]: got the size {got}, expected {first} as of maps[0]")
        same = i % (len(maps) // batches)
        if x.shape[1] != maps[same].shape[1]:
            channels = maps[same].shape[1]
            raise ValueError(f"maps[{i}]: got {x.shape[1]} channels, expected {channels} as of maps[{same}]")


def _check_layers(
    maps: Sequence[Tensor], lists: dict[str, Sequence[Tensor]], strides: Sequence[int], projection: bool
) -> None:
    weights, norms = lists["weights"], lists["norm_weights"]
    if len(norms) != max(len(weights), 1):
        raise ValueError(f"norm_weights: got {len(norms)}, expected {max(len(weights), 1)}, one for each layer")
    if projection and len(weights) < 2:
        raise ValueError(f"projection: got one with {len(weights)} convolutions, expected two at least")
    if len(strides) != len(weights):
        raise ValueError(f"strides: got {len(strides)}, expected {len(weights)}, one for each convolution")
    if any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in strides):
        raise ValueError(f"strides: got {list(strides)}, expected positive integers")
    joined = sum(x.shape[1] for x in maps)
    rows, last = joined, len(weights) - projection
    for i, weight in enumerate(weights):
        rows = joined if i == last else rows
        side = weight.shape[2] if weight.ndim == 4 else 0
        if not side % 2 or not len(weight) or tuple(weight.shape[1:]) != (rows, side, side):
            raise ValueError(f"weights[{i}]: got shape {tuple(weight.shape)}, expected (C, {rows}, k, k) with odd k")
        check_kind(f"weights[{i}]", weight, maps[0], torch.float32)
        rows = weight.shape[0]
    channels = [weight.shape[0] for weight in weights] or [joined]
    for name in ("norm_weights", "norm_biases", "running_means", "running_vars"):
        if len(lists.get(name, channels)) != len(channels):
            raise ValueError(f"{name}: got {len(lists[name])}, expected {len(channels)}, one for each layer")
        for i, x in enumerate(lists.get(name, ())):
            check_vector(f"{name}[{i}]", x, channels[i])
            check_kind(f"{name}[{i}]", x, maps[0], torch.float32)
            if name.startswith("running"):
                check_constant(f"{name}[{i}]", x)


def _check_residual(
    first: Tensor,
    residual: Tensor | None,
    batches: int,
    channels: int,
    sizes: Sequence[tuple[int, int]],
    projection: bool,
) -> None:
    if projection:
        if residual is not None:
            raise ValueError("residual: got one beside a projection, which makes it, expected None")
        if sizes[-1] != sizes[-2]:
            raise ValueError(f"strides: got a projection to {sizes[-1]} pixels, expected {sizes[-2]} as of the output")
    elif residual is not None:
        expected = (batches * first.shape[0], channels, *sizes[-1])
        if tuple(residual.shape) != expected:
            raise ValueError(f"residual: got shape {tuple(residual.shape)}, expected {expected} as of the output")
        check_kind("residual", residual, first)


def _call(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    *_: Any,
    batches: int = 1,
    **__: Any,
) -> Call:
    first = maps[0]
    tokens = batches * first.shape[0] * first.shape[2] * first.shape[3]
    return Call(first.device.type, first.dtype, max(len(weight) for weight in norm_weights), tokens)


OPERATOR = register(
    Operator(
        name="norm_relu",
        function=norm_relu,
        reference=reference,
        samples=SAMPLES,
        describe=_call,
        channel_axis=1,
    )
)
