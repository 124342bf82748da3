"""Upsampled losses in torch operators: interpolation by two small matrices per slice, loss and gradient in the slice.

An image is worked off in slices of rows and columns. With the rows W_y and W_x of the interpolation matrices that
belong to a slice, its logits are W_y P W_xᵀ for the cells P it touches, and its share of the gradient of P is
W_yᵀ G W_x with G the gradient of the logits, which takes their place in memory. Shares are added in a fixed order.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from seqca.loss_type import check_label_values

from .interpolation import bands
from .softplus import softplus

# The fewer slices, the fewer operators; on a CPU larger ones were no faster.
_ROWS = 256
"""Rows of a slice at most: the product with their interpolation matrix costs the more the higher a slice is."""

_LOGITS = {"cpu": 2**21}
"""Logits of a slice at most, by device type; elsewhere 2²⁴. Few beside what a training step keeps."""


def forward(
    prediction: Tensor,
    target: Tensor,
    kind: str,
    ignore: float | None,
    positive_weight: float | None,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient of loss × divisor by the prediction (empty unless it is needed), and the divisor."""
    wide = torch.float64 if prediction.dtype == torch.float64 else torch.float32
    if prediction.device.type == "cpu":
        check_label_values(target, prediction.shape[1], kind, ignore)
    # The softmax of two logits is the sigmoid of their difference.
    logits = prediction[:, 1:].to(wide) - prediction[:, :1].to(wide) if kind == "two_class" else prediction
    gradient = logits.new_zeros(logits.shape if needs_gradient else 0, dtype=wide)
    count = _count(target, kind, ignore)
    function = _function(kind, ignore, _weights(target, kind, ignore, positive_weight, count, wide))
    totals = []
    for slice_ in _slices(logits, target, gradient if needs_gradient else None, wide):
        tile = slice_.logits()
        totals.append(function(tile, slice_.labels, needs_gradient))
        if needs_gradient:
            slice_.accumulate(tile)
    divisor = count.to(wide) * (target.shape[1] if kind == "unit_l1" else 1)
    if kind == "two_class" and needs_gradient:
        gradient = torch.cat([-gradient, gradient], 1)
    return (torch.stack(totals).sum() / divisor).to(wide), gradient, divisor


def backward(grad: Tensor, prediction: Tensor, gradient: Tensor, divisor: Tensor) -> Tensor:
    """Gradient of the prediction, in its dtype, from what `forward` has kept."""
    # One by one, so that the rounding of grad / divisor is no common factor of all elements.
    return gradient.div(divisor).mul_(grad).to(prediction.dtype)


class _Slice(NamedTuple):
    """A slice of one image: cells (h, C, w), labels, and where the gradient of the cells goes."""

    cells: Tensor
    gradient: Tensor | None
    labels: Tensor
    rows: Tensor
    columns: Tensor

    def logits(self) -> Tensor:
        """(rows, C, columns), in memory of their own."""
        height, channels, width = self.cells.shape
        cells = self.cells.to(self.rows.dtype).reshape(-1, width)
        stretched = torch.mm(cells, self.columns.mT).view(height, -1)
        return torch.mm(self.rows, stretched).view(len(self.rows), channels, -1)

    def accumulate(self, gradient: Tensor) -> None:
        """Add the share of the gradient of the cells that comes from the gradient of the logits."""
        assert self.gradient is not None
        shrunk = torch.mm(self.rows.mT, gradient.flatten(1)).view(-1, len(self.columns))
        self.gradient.add_(torch.mm(shrunk, self.columns).view(self.gradient.shape))


def _slices(logits: Tensor, labels: Tensor, gradient: Tensor | None, wide: torch.dtype) -> Iterator[_Slice]:
    """All slices of all images."""
    batch, channels, height, width = logits.shape
    budget = _LOGITS.get(logits.device.type, 2**24)
    columns = min(labels.shape[-1], max(128, budget // (_ROWS * channels)))
    rows = max(1, min(_ROWS, budget // (channels * columns)))
    bands_x = bands(width, labels.shape[-1], columns, wide, logits.device)
    bands_y = bands(height, labels.shape[-2], rows, wide, logits.device)
    for i in range(batch):
        image = logits[i].transpose(0, 1)
        into = None if gradient is None else gradient[i].transpose(0, 1)
        for across in bands_x:
            for down in bands_y:
                cells = (down.cells, slice(None), across.cells)
                label = labels[i, ..., down.pixels, across.pixels]
                yield _Slice(image[cells], None if into is None else into[cells], label, down.weights, across.weights)


# A function per kind: logits (rows, C, columns) and labels -> sum of the losses. The logits are overwritten, by their
# gradient where it is needed. Sums are float64, so that a mean over images, of which there is only one, adds no
# rounding to that of the pixels.
_Function = Callable[[Tensor, Tensor, bool], Tensor]


class _Weights(NamedTuple):
    """Weights of positive and of negative pixels, to be divided by `whole`.

    Integers, unless in float64: a rounded quotient would be an error common to all pixels.
    """

    positive: Tensor
    negative: Tensor
    whole: Tensor


def _function(kind: str, ignore: float | None, weights: _Weights | None) -> _Function:
    if weights is not None:
        return partial(_balanced_bce, ignore, weights)
    return partial({"cross_entropy": _cross_entropy, "l1": _l1, "unit_l1": _unit_l1}[kind], ignore)


def _cross_entropy(ignore: float | None, z: Tensor, y: Tensor, needs_gradient: bool) -> Tensor:
    y = y[:, None]
    outside = (y < 0) | (y >= z.shape[1])
    index = y.masked_fill(outside, 0)
    ignored = torch.zeros_like(outside) if ignore is None else y == ignore
    # A label that is no class, on a device that cannot raise, makes its pixel NaN.
    keep = torch.ones_like(y, dtype=z.dtype).masked_fill_(outside, torch.nan).masked_fill_(ignored, 0)
    z.sub_(z.amax(1, keepdim=True))
    at_label = z.gather(1, index)
    sums = z.exp_().sum(1, keepdim=True)
    losses = (sums.log() - at_label).mul_(keep).masked_fill_(ignored, 0)
    if needs_gradient:
        z.mul_(keep / sums)
        z.scatter_(1, index, z.gather(1, index) - keep)
    return losses.sum(dtype=torch.float64)


def _l1(ignore: float | None, z: Tensor, y: Tensor, needs_gradient: bool) -> Tensor:
    y = y.transpose(0, 1)
    z.sub_(y)
    _hide(z, y, ignore)
    total = z.abs().sum(dtype=torch.float64)
    if needs_gradient:
        z.sign_()
    return total


def _unit_l1(ignore: float | None, z: Tensor, y: Tensor, needs_gradient: bool) -> Tensor:
    y = y.transpose(0, 1)
    square = z.square().sum(1, keepdim=True)
    norm = square.sqrt()
    clamped = norm.clamp(min=1e-12)
    error = (z / clamped).sub_(y)
    _hide(error, y[:, :1], ignore)  # an ignored pixel holds the ignore value in all channels
    total = error.abs().sum(dtype=torch.float64)
    if needs_gradient:
        # Through z / max(‖z‖, ε): what lies along z is lost, unless the norm is clamped. From z itself, since the
        # rounding of z / ‖z‖ has a mean, which a sum over all pixels shows.
        sign = error.sign_()
        along = (sign * z).sum(1, keepdim=True).div_(square).masked_fill_(norm < 1e-12, 0)
        torch.addcmul(sign, z, along, value=-1, out=z).div_(clamped)
    return total


def _balanced_bce(ignore: float | None, weights: _Weights, z: Tensor, y: Tensor, needs_gradient: bool) -> Tensor:
    y = y.transpose(0, 1)
    positive = (y >= 0.5).to(z.dtype)
    weight = positive * weights.positive + (1 - positive) * weights.negative
    # A label that is NaN, on a device that cannot raise, makes its pixel NaN.
    weight.masked_fill_(y.isnan(), torch.nan)
    _hide(weight, y, ignore)
    # −log σ(z) and −log(1 − σ(z)) are softplus(∓z), with the derivatives ∓σ(∓z).
    sign = positive.mul_(-2).add_(1)
    z.mul_(sign)
    total = softplus(z).mul_(weight).sum(dtype=torch.float64)
    if needs_gradient:
        z.sigmoid_().mul_(weight.mul_(sign)).div_(weights.whole)
    return total / weights.whole


def _hide(z: Tensor, y: Tensor, ignore: float | None) -> None:
    """Put 0 where a label is ignored."""
    if ignore is not None:
        z.masked_fill_(y == ignore, 0)


def _count(target: Tensor, kind: str, ignore: float | None) -> Tensor:
    """Number of valid pixels, or entries where every channel is valid or not on its own; 1 if there is none."""
    labels = target[:, :1] if kind == "unit_l1" else target
    if ignore is None:
        return torch.full((), labels.numel(), device=target.device)
    return (labels != ignore).count_nonzero().clamp_(min=1)


def _weights(
    target: Tensor, kind: str, ignore: float | None, positive_weight: float | None, count: Tensor, wide: torch.dtype
) -> _Weights | None:
    """For the losses that have them: those given, or the share of the other sign among the valid pixels."""
    if kind not in ("balanced_bce", "two_class"):
        return None
    if positive_weight is None:
        negatives = target < 0.5 if ignore is None else (target < 0.5) & (target != ignore)
        positive, whole = negatives.count_nonzero(), count
    else:
        ratio = Fraction(positive_weight).limit_denominator(2**24)
        share = (positive_weight, 1) if wide == torch.float64 else (ratio.numerator, ratio.denominator)
        positive, whole = (torch.full((), part, dtype=wide, device=target.device) for part in share)
    return _Weights(positive.to(wide), (whole - positive).to(wide), whole.to(wide))
