"""Faults to plant: each makes of a right kernel, the reference, a wrong one.

A fault is a function of what a setting drew, and gives wrong results.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.nn.functional import softplus as torch_softplus

from seqca.loss_type import Loss
from seqca.ops import (
    aggregation_head,
    cross_attention,
    linear_attention,
    norm_relu,
    scale_aggregation,
    upsampled_loss,
)
from seqca.ops.shared.dispatch import use_backend
from seqca.ops.verification.draws import Results
from seqca.ops.verification.judge import evaluate, inputs_of, leaves
from seqca.ops.verification.tolerance import read

from .settings import Drawn

TIMES = 8
"""What is planted on single elements and channels, in multiples of the reference's typical error."""

SOURCES = {"linear_attention": ("k", "v"), "cross_attention": ("maps",)}
"""The arguments of attention whose tokens are summed over."""

OFF = {torch.float32: 1 + 1 / 16, torch.float16: 1 + 1 / 16, torch.bfloat16: 2}
"""By how much constants are off: in bfloat16 some results err by more than a sixteenth of a constant changes."""


def _planted(drawn: Drawn, norm: int, plant: Callable[[Tensor, float], None]) -> Results:
    """A fault in each result of the reference, in its dtype, so large that the error is eight times the typical one.

    Args:
        drawn: with errors of its own, which a fault may add to or take from.
        norm: that it is to be seen in.
        plant: changes a result, in float64, by so much.
    """
    exact = drawn.compute([x.double() for x in drawn.inputs])
    results = drawn.compute(drawn.inputs)
    for what, x in results.items():
        size, typical = TIMES, drawn.allowance[what].typical[norm]
        while read([drawn.norms(results[what], exact[what])])[0][norm] < TIMES * typical:
            changed = x.double()
            plant(changed, size * typical)
            results[what] = changed.to(x.dtype)
            size *= 1.1
    return results


def _channel_axis(drawn: Drawn, x: Tensor) -> int:
    """Of a result: a vector has one number for each channel."""
    return drawn.operator.channel_axis % x.ndim if x.ndim > 1 else 0


def one_wrong_element(drawn: Drawn) -> Results:
    """One element is off by eight times the typical largest error."""

    def plant(x: Tensor, error: float) -> None:
        x[torch.unravel_index(torch.tensor(x.numel() // 2), x.shape)] += error

    return _planted(drawn, 0, plant)


def bias_of_a_channel(drawn: Drawn) -> Results:
    """One channel is off by eight times the typical mean error of the worst channel."""

    def plant(x: Tensor, error: float) -> None:
        channel = x.select(_channel_axis(drawn, x), 0) if x.ndim else x
        channel += error

    return _planted(drawn, 1, plant)


def two_channels_exchanged(drawn: Drawn) -> Results:
    """The first two channels of each result stand in each other's place."""
    swapped = {}
    for what, x in drawn.compute(drawn.inputs).items():
        order = list(range(x.shape[_channel_axis(drawn, x)])) if x.ndim else []
        order[:2] = order[1::-1]
        swapped[what] = x.index_select(_channel_axis(drawn, x), torch.tensor(order)) if x.ndim else x
    return swapped


def products_in_tf32(drawn: Drawn) -> Results:
    """Inputs keep ten bits of their fractions, as tensor cores do with float32."""
    return drawn.compute([x.view(torch.int32).bitwise_and(-(2**13)).view(torch.float32) for x in drawn.inputs])


def one_token_forgotten(drawn: Drawn) -> Results:
    """The first token of the first input, of images the first pixel, is read as zero (a stride may skip others)."""
    first, *others = drawn.inputs
    first = first.clone()
    first[(..., 0, 0) if drawn.operator.channel_axis == 1 else (..., 0, slice(None))] = 0
    return drawn.compute([first, *others])


def one_source_forgotten(drawn: Drawn) -> Results:
    """The last token of the keys and the values, of maps the last pixel of each, is read as zero."""
    sources = {id(x) for x in leaves([drawn.sample.arguments[name] for name in SOURCES[drawn.operator.name]])}
    inputs = [*inputs_of(drawn.sample), *drawn.gradients]
    changed = []
    for x, compact in zip(inputs, drawn.inputs, strict=True):
        if id(x) in sources:
            compact = compact.clone()
            compact[(..., -1, -1) if drawn.operator.channel_axis == 1 else (..., -1, slice(None))] = 0
        changed.append(compact)
    return drawn.compute(changed)


def wrong_stride(drawn: Drawn) -> Results:
    """The first input is read with the strides of its last two dimensions exchanged."""
    first, *others = drawn.inputs
    return drawn.compute([first.mT.contiguous().view(first.shape), *others])


def wrong_constant(drawn: Drawn) -> Results:
    """ε, the weight of a loss, the number of its pixels or the slope of softplus is off; or corners of maps are
    aligned, not centres of cells."""
    return _by(drawn, partial(_OFF[drawn.operator.name], OFF[drawn.inputs[0].dtype]))


def gradient_term_dropped(drawn: Drawn) -> Results:
    """Of linear attention the gradient through the denominator, of softplus the slope, of losses and
    aggregations the last image's."""
    return _by(drawn, _WITHOUT_A_TERM[drawn.operator.name])


def mean_held(drawn: Drawn) -> Results:
    """The gradient takes the mean of a batch for a constant: what all pixels have in common stays in it."""
    return _by_norms_of_batches(drawn, _batch_norm_of_held_mean)


def variance_held(drawn: Drawn) -> Results:
    """The gradient takes the variance of a batch for a constant."""
    return _by_norms_of_batches(drawn, _batch_norm_of_held_variance)


def _by_norms_of_batches(drawn: Drawn, norm: Callable[..., Tensor]) -> Results:
    """With another batch norm, which is by the statistics of the batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module(f"seqca.reference.{drawn.operator.name}"), "batch_norm", norm)
        return drawn.compute(drawn.inputs)


def _batch_norm_of_held_mean(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.detach().to(weight.dtype).mean((0, 2, 3), keepdim=True)
    return _scaled(centred, centred.square().mean((0, 2, 3)), weight, bias, eps).to(x)


def _batch_norm_of_held_variance(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.to(weight.dtype).mean((0, 2, 3), keepdim=True)
    return _scaled(centred, centred.detach().square().mean((0, 2, 3)), weight, bias, eps).to(x)


def _scaled(centred: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return centred * ((variance + eps).rsqrt() * weight)[:, None, None] + bias[:, None, None]


def _by(drawn: Drawn, function: Callable[..., Any]) -> Results:
    sample = drawn.sample
    with use_backend("reference"):
        return evaluate(function, sample, drawn.gradients)


def _attention_without_denominator(q: Any, k: Any, v: Any, eps: float = 1e-12) -> list[Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        denominator = (q @ k.sum(-2, keepdim=True).mT).clamp(min=eps)
        return (q @ (v.mT @ k).mT) / denominator.detach()

    entries: Iterable[tuple[Tensor, ...]] = zip(leaves(q), leaves(k), leaves(v), strict=True)
    return [attend(*entry) for entry in entries]


def _softplus_of_slope_one(x: Tensor) -> Tensor:
    return x + (torch_softplus(x, threshold=40) - x).detach()


def _loss_of_fixed_last_image(prediction: Tensor, **arguments: Any) -> Any:
    fixed = torch.cat([prediction[:-1], prediction[-1:].detach()])
    return upsampled_loss(fixed, **arguments)


def _aggregation_of_fixed_last_image(maps: list[Tensor], **arguments: Any) -> Any:
    return scale_aggregation(_last_image_fixed(maps), **arguments)


def _head_of_fixed_last_image(maps: list[Tensor], **arguments: Any) -> Any:
    return aggregation_head(_last_image_fixed(maps), **arguments)


def _last_image_fixed(maps: list[Tensor]) -> list[Tensor]:
    fixed = {id(x): torch.cat([x[:-1], x[-1:].detach()]) for x in maps}
    return [fixed[id(x)] for x in maps]


def _block_of_fixed_last_image(maps: list[Tensor], **arguments: Any) -> Any:
    return norm_relu(_last_image_fixed(maps), **arguments)


def _exchange_of_fixed_last_image(maps: list[Tensor], **arguments: Any) -> Any:
    return cross_attention(_last_image_fixed(maps), **arguments)


_WITHOUT_A_TERM: dict[str, Callable[..., Any]] = {
    "aggregation_head": _head_of_fixed_last_image,
    "cross_attention": _exchange_of_fixed_last_image,
    "linear_attention": _attention_without_denominator,
    "norm_relu": _block_of_fixed_last_image,
    "scale_aggregation": _aggregation_of_fixed_last_image,
    "softplus": _softplus_of_slope_one,
    "upsampled_loss": _loss_of_fixed_last_image,
}


def _attention_off(off: float, eps: float, **arguments: Any) -> Any:
    return linear_attention(**arguments, eps=eps * off)


def _softplus_off(off: float, x: Tensor) -> Tensor:
    return torch_softplus(x, beta=off, threshold=40)


def _loss_off(off: float, prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    if loss.kind not in ("balanced_bce", "two_class"):
        return upsampled_loss(prediction, target, loss) / off
    valid = target if loss.ignore is None else target[target != loss.ignore]
    weight = (valid < 0.5).double().mean().item() if loss.positive_weight is None else loss.positive_weight
    return upsampled_loss(prediction, target, replace(loss, positive_weight=weight / off))


def _aggregation_off(off: float, maps: list[Tensor], **arguments: Any) -> Any:
    size = maps[0].shape[2:]
    aligned = [x if x.shape[2:] == size else interpolate(x, size, mode="bilinear", align_corners=True) for x in maps]
    return scale_aggregation(aligned, **arguments)


def _head_off(off: float, maps: list[Tensor], eps: float, **arguments: Any) -> Any:
    return aggregation_head(maps, **arguments, eps=eps * off)


def _block_off(off: float, eps: float, **arguments: Any) -> Any:
    return norm_relu(**arguments, eps=eps * off)


def _exchange_off(off: float, norm_eps: float, **arguments: Any) -> Any:
    return cross_attention(**arguments, norm_eps=norm_eps * off)


_OFF: dict[str, Callable[..., Any]] = {
    "aggregation_head": _head_off,
    "cross_attention": _exchange_off,
    "linear_attention": _attention_off,
    "norm_relu": _block_off,
    "scale_aggregation": _aggregation_off,
    "softplus": _softplus_off,
    "upsampled_loss": _loss_off,
}
FAULTS = (
    one_wrong_element,
    bias_of_a_channel,
    two_channels_exchanged,
    products_in_tf32,
    one_token_forgotten,
    one_source_forgotten,
    wrong_stride,
    wrong_constant,
    gradient_term_dropped,
    mean_held,
    variance_held,
)

WITHOUT_CONSTANT = {
    ("linear_attention", "one map"),  # ε is far below all denominators
    ("linear_attention", "several maps"),
    ("scale_aggregation", "finest alone"),  # nothing is upsampled
}
"""The samples, by operator and name, in which no constant matters."""

WITH_BATCH_STATISTICS = {
    ("aggregation_head", "batch statistics"),
    ("aggregation_head", "repeated maps"),
    ("aggregation_head", "odd ratios"),
    ("cross_attention", "exchange"),
    ("cross_attention", "across scales"),
    ("cross_attention", "mixed"),
    ("norm_relu", "basic block"),
    ("norm_relu", "projection"),
    ("norm_relu", "chain"),
    ("norm_relu", "batches"),
    ("norm_relu", "batches with residual"),
    ("norm_relu", "norm alone"),
}
"""The samples that batch norm normalises by the statistics of the batch."""
