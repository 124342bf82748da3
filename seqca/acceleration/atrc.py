"""ATRC, https://github.com/brdav/atrc (Brüggemann et al., "Exploring Relational Context …", ICCV 2021).

`GlobalContextAttentionBlock` is one pair of `seqca.ops.cross_attention`: queries and keys are
softplus(BN(W₂ relu(BN(W₁ x)))), values relu(BN(W x)), and S q / max(z·q, 10⁻¹²) is what is gathered. The other blocks
are left: `LocalContextAttentionBlock` looks at windows, `LabelContextAttentionBlock` is normalised by a softmax over
its keys.

`RelationalContextHead` concatenates the upsampled maps of all scales. Its auxiliary predictions are a 1×1 convolution,
batch norm, ReLU and a 1×1 convolution of that, detached: `seqca.ops.aggregation_head`. The 3×3 convolutions that read
the same concatenation do not commute with upsampling, so that it is still made, for them.

With ``outputs="lazy"`` heads hand on all predictions as lazy maps, and these losses are `seqca.ops.upsampled_loss`:

- `CrossEntropyLoss`, a mean over the valid pixels, 0 where there are none; with ``balanced`` or with the class weights
  (1 − w, w) it is the loss of two classes. Labels other than 0, 1 and the ignored one go to the original.
- `BalancedBinaryCrossEntropyLoss` for a weight from 0 to below 1. It takes labels as probabilities, the operator as
  positive from a half: so labels other than 0, 1 and the ignored one go to the original.
- `L1Loss` is divided by the number of pixels, not of entries, and ignores pixels one channel of which is ignored: the
  operator's loss times the channels, of a label that is ignored in all channels of such pixels.
- `ClusterCrossEntropyLoss` and `BinningCrossEntropyLoss`, cross-entropy with classes made from the label, whose mean
  over no valid pixel is NaN with the gradient 0, which is added.

The three first ones, of other fingerprints, are those of InvPT and TaskPrompter too.

A label that is NaN, infinite or no class is an error of the operator's on a CPU, where the losses there give NaN or an
error of torch's.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqca.loss_type import Loss
from seqca.nn.cross_attention import attend_joined
from seqca.nn.cross_scale import aggregate
from seqca.ops import Branch, Pair, upsampled_loss

from .fingerprint import matches
from .joined_attention import FINGERPRINTS, against_blocks, alike, key_rows, query_rows
from .layers import against_norm, against_pointwise, against_relu
from .lazy import upsampled_lazily
from .replacement import Replacement, leave, register
from .upsampled import coarse_of, mean_of_valid

Predictions = dict[str, dict[str, Any]]
Upsample = Callable[[nn.Module, Tensor, tuple[int, int]], Any]


class FusedAttention(nn.Module):
    """What a target gathers from a source."""

    def forward(self, target_task_feats: Tensor, source_task_feats: Tensor, **kwargs: Any) -> Tensor:
        """(B, C, H, W), (B, C, H', W') → (B, C_out, H, W)."""
        block: Any = self
        layers = [[rows] for rows in (*query_rows(block), *key_rows(block))]
        if not alike(layers):
            return super().forward(target_task_feats, source_task_feats, **kwargs)
        branches, maps = [Branch(0, queries=1), Branch(1, keys=1)], [target_task_feats, source_task_feats]
        (attended,) = attend_joined(maps, layers, branches, [Pair(0, 0, 1, 0)], eps=block.eps)
        return attended


class FusedHead(nn.Module):
    """The head, with its auxiliary predictions from the maps themselves."""

    def forward(self, inp: list[Tensor], inp_shape: tuple[int, int], image: Tensor, **kwargs: Any) -> Predictions:
        """Maps of all scales, the size and the image → "final" and "aux", by task, of full size."""
        return _predictions(self, inp, inp_shape, image, {}, _upsampled)


class LazyHead(nn.Module):
    """`FusedHead`, whose predictions are upsampled when they are read."""

    def forward(self, inp: list[Tensor], inp_shape: tuple[int, int], image: Tensor, **kwargs: Any) -> Predictions:
        """Maps of all scales, the size and the image → "final" and "aux", by task."""
        return _predictions(self, inp, inp_shape, image, {}, upsampled_lazily)


class FusedSearchHead(nn.Module):
    """The head that searches a genotype, with its auxiliary predictions from the maps themselves."""

    def forward(
        self, inp: list[Tensor], inp_shape: tuple[int, int], image: Tensor, gumbel_temp: float, mode: str = "gumbel"
    ) -> Predictions:
        """Maps of all scales, the size and the image → "final" and "aux", by task, of full size."""
        return _predictions(self, inp, inp_shape, image, {"gumbel_temp": gumbel_temp, "mode": mode}, _upsampled)


class LazySearchHead(nn.Module):
    """`FusedSearchHead`, whose predictions are upsampled when they are read."""

    def forward(
        self, inp: list[Tensor], inp_shape: tuple[int, int], image: Tensor, gumbel_temp: float, mode: str = "gumbel"
    ) -> Predictions:
        """Maps of all scales, the size and the image → "final" and "aux", by task."""
        return _predictions(self, inp, inp_shape, image, {"gumbel_temp": gumbel_temp, "mode": mode}, upsampled_lazily)


class LazyFCNHead(nn.Module):
    """The baseline's head, whose predictions are upsampled when they are read."""

    def forward(self, inp: list[Tensor], inp_shape: tuple[int, int], **kwargs: Any) -> Predictions:
        """Maps of all scales and the size → "final", by task."""
        head: Any = self
        joined = head._transform_inputs(inp)
        final = {task: head.final_logits[task](head.bottleneck[task](joined)) for task in head.tasks}
        return {"final": {task: upsampled_lazily(self, x, inp_shape) for task, x in final.items()}}


def _predictions(
    head: Any, maps: list[Tensor], size: tuple[int, int], image: Tensor, search: dict[str, Any], upsample: Upsample
) -> Predictions:
    joined = head._transform_inputs(maps)
    features = {task: head.bottleneck[task](joined) for task in head.tasks}
    chosen = [maps[i].detach() for i in head.in_index]  # no gradient flows from auxiliary predictions into the maps
    auxiliary = {task: _auxiliary(head, task, chosen, joined) for task in head.aux_logits}
    related = head.atrc_module(features, auxiliary, image, **search)
    final = {task: head.final_logits[task](related[task]) for task in head.tasks}
    named = {"final": final, "aux": auxiliary}
    return {name: {task: upsample(head, x, size) for task, x in each.items()} for name, each in named.items()}


def _auxiliary(head: Any, task: str, maps: list[Tensor], joined: Tensor) -> Tensor:
    hidden, logits = head.aux_conv[task], head.aux_logits[task]
    if any(m.shape[2] > maps[0].shape[2] or m.shape[3] > maps[0].shape[3] for m in maps):
        return logits(hidden(joined.detach()))
    return aggregate(maps, hidden.conv, hidden.bn, logits)


def _upsampled(_: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


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


def _attention_refusal(block: Any) -> str | None:
    return against_blocks({"block": block})


def _head_refusal(head: Any) -> str | None:
    if not len(head.aux_logits):
        return "has no auxiliary predictions, which are all that is fused"
    return _auxiliary_refusal(head)


def _auxiliary_refusal(head: Any) -> str | None:
    if not isinstance(head.in_index, (list, tuple)):
        return f"in_index is {head.in_index}, only several scales are fused"
    for task, logits in head.aux_logits.items():
        if reason := _hidden_refusal(head.aux_conv[task]) or against_pointwise(f"aux_logits.{task}", logits):
            return reason
    return None


def _hidden_refusal(layer: Any) -> str | None:
    if not matches(layer, "ConvBNReLU", FINGERPRINTS["ConvBNReLU"]) or not layer.use_norm or not layer.use_activation:
        return "an auxiliary prediction does not begin with a convolution, a batch norm and ReLU as they are known"
    return (
        against_pointwise("a convolution", layer.conv)
        or against_norm("a norm", layer.bn)
        or against_relu("an activation", layer.activation)
    )


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


def _nothing_refused(_: Any) -> None:
    return None


ATTENTION = register(
    Replacement(
        kind="atrc.attention",
        class_name="GlobalContextAttentionBlock",
        fingerprints=("12c31203eb99d8a8",),
        fused=FusedAttention,
        refusal=_attention_refusal,
    )
)
HEAD, SEARCH_HEAD, LAZY_HEAD, LAZY_SEARCH_HEAD = (
    register(
        Replacement(
            kind="atrc.predictions" if lazy else "atrc.head",
            class_name=class_name,
            fingerprints=(fingerprint,),
            fused=fused,
            refusal=_auxiliary_refusal if lazy else _head_refusal,
            methods=("forward", "_transform_inputs"),
            calls=("bottleneck.*", "atrc_module", "final_logits.*"),
            lazy=lazy,
            hands_lazy=lazy,
        )
    )
    for class_name, fingerprint, fused, lazy in (
        ("RelationalContextHead", "faa9a392a247d048", FusedHead, False),
        ("RelationalContextSearchHead", "e240298e4282e2b6", FusedSearchHead, False),
        ("RelationalContextHead", "faa9a392a247d048", LazyHead, True),
        ("RelationalContextSearchHead", "e240298e4282e2b6", LazySearchHead, True),
    )
)
LAZY_FCN_HEAD = register(
    Replacement(
        kind="atrc.predictions",
        class_name="FCNHead",
        fingerprints=("fd09746081619347",),
        fused=LazyFCNHead,
        calls=("*",),
        lazy=True,
        hands_lazy=True,
    )
)
CROSS_ENTROPY, BINARY, L1, CLUSTERS, BINS = (
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
        (
            "CrossEntropyLoss",
            ("081b3fe3d34534b9", "e97120f7969685fb"),
            ("forward",),
            FusedCrossEntropy,
            _cross_entropy_refusal,
        ),
        ("BalancedBinaryCrossEntropyLoss", ("33eb9f58eb3fff5e",), ("forward",), FusedBinary, _binary_refusal),
        ("L1Loss", ("f826fe127d342c65", "fb8fa04c7c75bdc7"), ("forward",), FusedL1, _nothing_refused),
        ("ClusterCrossEntropyLoss", ("1a3b5cd102817507",), ("forward",), FusedClusters, _nothing_refused),
        (
            "BinningCrossEntropyLoss",
            ("c2b694c5104879de",),
            ("forward", "_create_disc_label"),
            FusedBins,
            _nothing_refused,
        ),
    )
)
LOCAL = leave(
    "atrc.attention",
    "LocalContextAttentionBlock",
    ("d7c9b0fc83f11b9d",),
    "attends to windows by a kernel of its own",
)
LABEL = leave(
    "atrc.attention",
    "LabelContextAttentionBlock",
    ("24b8ae1fcc0b6487",),
    "is normalised by a softmax over its keys, which linear attention is not",
)
