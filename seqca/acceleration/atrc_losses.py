"""The losses of ATRC (see `.atrc`), which InvPT and TaskPrompter (see `.invpt`) took from it.

With ``outputs="lazy"`` the heads of these code bases hand on all predictions as lazy maps, and these losses are
`seqca.ops.upsampled_loss`:

- `CrossEntropyLoss`, a mean over the valid pixels, 0 where there are none; with ``balanced`` or with the class weights
  (1 − w, w) it is the loss of two classes. Labels other than 0, 1 and the ignored one go to the original.
- `BalancedBinaryCrossEntropyLoss` for a weight from 0 to below 1. It takes labels as probabilities, the operator as
  positive from a half: so labels other than 0, 1 and the ignored one go to the original.
- `L1Loss` is divided by the number of pixels, not of entries, and ignores pixels one channel of which is ignored: the
  operator's loss times the channels, of a label that is ignored in all channels of such pixels.
- `ClusterCrossEntropyLoss` and `BinningCrossEntropyLoss`, cross-entropy with classes made from the label, whose mean
  over no valid pixel is NaN with the gradient 0, which is added.

The three first ones, of other fingerprints, are those of InvPT and TaskPrompter too. Their `CrossEntropyLoss` gives its
mean in float32, of predictions in float64 as well.

A label that is NaN, infinite or no class is an error of the operator's on a CPU, where the losses there give NaN or an
error of torch's.
"""

from typing import Any

import torch
from torch import Tensor, nn

from seqca.loss_type import Loss
from seqca.ops import upsampled_loss

from .replacement import Replacement, nothing_refused, register
from .upsampled import coarse_of, mean_of_valid


class FusedCrossEntropy(nn.Module):
    """Of classes, or of two classes with weights."""

    def forward(self, out: Any, label: Tensor, reduction: str = "mean") -> Tensor:
        """(B, C, H, W), (B, 1, H, W) → scalar."""
        loss: Any = self
        coarse = coarse_of(out, label)
        if coarse is None or reduction != "mean":
            return super().forward(out, label, reduction)
        if not loss.balanced and loss.class_weight is None:
            return upsampled_loss(coarse, label.squeeze(1).long(), Loss("cross_entropy", loss.ignore_index))
        classes = label.long().to(label.dtype)
        weight = None if loss.balanced else positive_weight(loss.class_weight)
        # The share of negatives among no valid pixels is an error there.
        valid = not loss.balanced or bool((classes != loss.ignore_index).any())
        weighted = loss.balanced or weight is not None
        two = coarse.shape[1] == 2 and label.dim() == 4 and _binary(classes, loss.ignore_index)
        if not (two and weighted and valid):
            return super().forward(out, label, reduction)
        return upsampled_loss(coarse, classes, Loss("two_class", loss.ignore_index, weight))


class FusedFloatCrossEntropy(FusedCrossEntropy):
    """Of a mean that is float32."""

    def forward(self, out: Any, label: Tensor, reduction: str = "mean") -> Tensor:
        """(B, C, H, W), (B, 1, H, W) → scalar."""
        loss = super().forward(out, label, reduction)
        return loss.float() if reduction == "mean" else loss


class FusedBinary(nn.Module):
    """Cross-entropy of two classes with a weight."""

    def forward(self, output: Any, label: Tensor, reduction: str = "mean") -> Tensor:
        """(B, 1, H, W) twice → scalar."""
        loss: Any = self
        coarse = coarse_of(output, label, label.shape[1])
        if coarse is None or reduction != "mean" or not _binary(label, loss.ignore_index):
            return super().forward(output, label, reduction)
        positive, negative = _rounded_weights(loss.pos_weight)
        share = positive / (positive + negative)
        value = upsampled_loss(coarse, label, Loss("balanced_bce", loss.ignore_index, share))
        return mean_of_valid((positive + negative) * value, label != loss.ignore_index)


class FusedL1(nn.Module):
    """L1, of vectors divided by their norm or as they are."""

    def forward(self, out: Any, label: Tensor, reduction: str = "mean") -> Tensor:
        """(B, C, H, W) twice → scalar."""
        loss: Any = self
        coarse = coarse_of(out, label, label.shape[1])
        if coarse is None or reduction != "mean":
            return super().forward(out, label, reduction)
        ignore = loss.ignore_index if getattr(loss, "ignore_invalid_area", True) else None
        channels = label.shape[1]
        if ignore is not None and channels > 1:
            label = label.masked_fill((label == ignore).any(1, keepdim=True), ignore)
        return channels * upsampled_loss(coarse, label, Loss("unit_l1" if loss.normalize else "l1", ignore))


class FusedClusters(nn.Module):
    """Cross-entropy with the class of the nearest of some centroids."""

    def forward(self, out: Any, label: Tensor, reduction: str = "mean") -> Tensor:
        """(B, K, H, W), (B, 3, H, W) → scalar."""
        loss: Any = self
        coarse = coarse_of(out, label)
        if coarse is None or reduction != "mean":
            return super().forward(out, label, reduction)
        nearest = torch.cdist(label.flatten(2).mT, loss.centroids).argmin(2).unflatten(1, label.shape[2:])
        classes = nearest.masked_fill((label == loss.ignore_index).any(1), loss.ignore_index)
        return _mean_cross_entropy(coarse, classes, loss.ignore_index)


class FusedBins(nn.Module):
    """Cross-entropy with the class of an interval."""

    def forward(self, out: Any, label: Tensor, reduction: str = "mean") -> Tensor:
        """(B, K, H, W), (B, 1, H, W) → scalar."""
        loss: Any = self
        coarse = coarse_of(out, label)
        if coarse is None or reduction != "mean":
            return super().forward(out, label, reduction)
        classes = loss._create_disc_label(label).masked_fill(label == loss.ignore_index, loss.ignore_index)
        return _mean_cross_entropy(coarse, classes.squeeze(1), loss.ignore_index)


def positive_weight(class_weight: Tensor) -> float | None:
    """w of the weights (1 − w, w) of two classes, which may both be rounded; None for others."""
    found = class_weight.tolist()
    for weight in (1 - found[0], found[-1]):
        if torch.tensor([1 - weight, weight], dtype=class_weight.dtype).tolist() == found and 0 <= weight <= 1:
            return weight
    return None


def _rounded_weights(weight: float) -> tuple[float, float]:
    """Of positive and negative pixels, as they come of w and 1 − w by divisions in float32 there."""
    w = torch.as_tensor(weight)
    factor = 1 / (1 - w)
    return ((w * factor - 1).item() + 1) / factor.item(), 1 / factor.item()


def _mean_cross_entropy(coarse: Tensor, classes: Tensor, ignore: int) -> Tensor:
    return mean_of_valid(upsampled_loss(coarse, classes, Loss("cross_entropy", ignore)), classes != ignore)


def _binary(label: Tensor, ignore: float) -> bool:
    """Whether all labels are 0, 1 or ignored."""
    return bool(((label == 0) | (label == 1) | (label == ignore)).all())


def _cross_entropy_refusal(loss: Any) -> str | None:
    weight = loss.class_weight
    if weight is not None and (weight.shape != (2,) or positive_weight(weight) is None):
        return f"class_weight is {weight.tolist()}, only (1 - w, w) for two classes is fused"
    return None


def _binary_refusal(loss: Any) -> str | None:
    weight = loss.pos_weight
    if weight is None:
        return "pos_weight is None, with which a batch without positive pixels has no loss but the integer 0"
    if not isinstance(weight, (int, float)) or not 0 <= weight < 1:
        return f"pos_weight is {weight}, only numbers from 0 to below 1 are fused"
    return None


CROSS_ENTROPY, FLOAT_CROSS_ENTROPY, BINARY, L1, CLUSTERS, BINS = (
    register(
        Replacement(
            kind="atrc.loss",
            class_name=class_name,
            fingerprints=fingerprints,
            fused=fused,
            refusal=refusal,
            methods=methods,
            lazy=True,
        )
    )
    for class_name, fingerprints, methods, fused, refusal in (
        ("CrossEntropyLoss", ("081b3fe3d34534b9",), ("forward",), FusedCrossEntropy, _cross_entropy_refusal),
        ("CrossEntropyLoss", ("e97120f7969685fb",), ("forward",), FusedFloatCrossEntropy, _cross_entropy_refusal),
        ("BalancedBinaryCrossEntropyLoss", ("33eb9f58eb3fff5e",), ("forward",), FusedBinary, _binary_refusal),
        ("L1Loss", ("f826fe127d342c65", "fb8fa04c7c75bdc7"), ("forward",), FusedL1, nothing_refused),
        ("ClusterCrossEntropyLoss", ("1a3b5cd102817507",), ("forward",), FusedClusters, nothing_refused),
        (
            "BinningCrossEntropyLoss",
            ("c2b694c5104879de",),
            ("forward", "_create_disc_label"),
            FusedBins,
            nothing_refused,
        ),
    )
)
