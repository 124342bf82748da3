"""MTI-Net (Vandenhende et al., ECCV 2020), https://github.com/SimonVandenhende/Multi-Task-Learning-PyTorch.

`HighResolutionFuse` upsamples the maps of an HRNet to the finest, concatenates them and mixes them by a 1×1
convolution, batch norm and ReLU; `HighResolutionHead` predicts from that by another 1×1 convolution. A 1×1 convolution
commutes with upsampling, so `seqca.ops.scale_aggregation` and `aggregation_head` give the same numbers, and nothing
upsampled or concatenated is kept.

`MTINetLoss` and `PADNetLoss` upsample deep predictions to the size of the label. Here they hand lazy maps to their
losses, of which these are `seqca.ops.upsampled_loss`:

- `SoftMaxwithLoss` and `DepthLoss` are means over the valid pixels. That of none is NaN with the gradient 0, which is
  added to what the operator gives, 0.
- `BalancedCrossEntropyLoss` ignores nothing, not 255 either: that is a positive pixel to it.

`NormalsLoss` is left: it divides a vector z by ‖z‖ + 10⁻¹² where the operator divides by max(‖z‖, 10⁻¹²). In float32
these differ for vectors shorter than 2·10⁻⁵ only, but there by up to a factor of two.

A label that is NaN, infinite or no class is an error of the operator's on a CPU, where the losses there give NaN or an
error of torch's.

With ``outputs="lazy"`` the networks hand on their final predictions as lazy maps as well.

The losses are those of the paper's authors too.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqca.loss_type import Loss
from seqca.nn.cross_scale import aggregate
from seqca.ops import scale_aggregation, upsampled_loss

from .layers import against_head, against_pointwise
from .lazy import LazyMap, upsampled_lazily
from .replacement import Replacement, leave, register
from .upsampled import coarse_of, mean_of_valid

Prediction = Tensor | LazyMap


class FusedFuse(nn.Module):
    """The maps of all scales, mixed."""

    def forward(self, x: list[Tensor]) -> Tensor:
        """Four maps (B, C_k, H_k, W_k), finest first → (B, ΣC_k, H_0, W_0)."""
        if not _finest_first(x):
            return super().forward(x)
        layers: Any = self.last_layer
        conv, bn, relu = layers
        return relu(bn(scale_aggregation(x[:4], conv.weight, conv.bias)))


class FusedHead(nn.Module):
    """A prediction from the maps of all scales."""

    def forward(self, x: list[Tensor]) -> Tensor:
        """Four maps (B, C_k, H_k, W_k), finest first → (B, out, H_0, W_0)."""
        if not _finest_first(x):
            return super().forward(x)
        layers: Any = self.last_layer
        conv, bn, _, prediction = layers
        return aggregate(x[:4], conv, bn, prediction)


class FusedMTINetLoss(nn.Module):
    """Losses of the final predictions, and of deep ones at four scales."""

    def forward(self, pred: Mapping[str, Any], gt: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions and labels by task → losses by name, and their weighted sum."""
        deep = [
            (f"scale_{scale}_{task}", task, pred["deep_supervision"][f"scale_{scale}"][task])
            for scale in range(4)
            for task in self.auxilary_tasks
        ]
        return _losses(self, deep, pred, gt)


class FusedPADNetLoss(nn.Module):
    """Losses of the final and of the initial predictions."""

    def forward(self, pred: Mapping[str, Any], gt: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions and labels by task → losses by name, and their weighted sum."""
        deep = [(f"deepsup_{task}", task, pred[f"initial_{task}"]) for task in self.auxilary_tasks]
        return _losses(self, deep, pred, gt)


class FusedClasses(nn.Module):
    """Softmax cross-entropy."""

    def forward(self, out: Prediction, label: Tensor) -> Tensor:
        """(B, C, H, W), (B, 1, H, W) → scalar."""
        loss: Any = self
        coarse = coarse_of(out, label)
        if coarse is None:
            return super().forward(out, label)
        classes, ignore = label[:, 0].long(), loss.criterion.ignore_index
        return mean_of_valid(upsampled_loss(coarse, classes, Loss("cross_entropy", ignore)), classes != ignore)


class FusedDepth(nn.Module):
    """L1."""

    def forward(self, out: Prediction, label: Tensor) -> Tensor:
        """(B, 1, H, W) twice → scalar."""
        coarse = coarse_of(out, label, label.shape[1])
        if coarse is None:
            return super().forward(out, label)
        return mean_of_valid(upsampled_loss(coarse, label, Loss("l1", _IGNORED)), label != _IGNORED)


class FusedBinary(nn.Module):
    """Cross-entropy of two classes in balance."""

    def forward(self, output: Prediction, label: Tensor, void_pixels: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) twice → scalar."""
        loss: Any = self
        coarse = coarse_of(output, label, label.shape[1])
        # The share of negatives is rounded to float32 there, which shows in float64.
        rounded = coarse is not None and loss.pos_weight is None and coarse.dtype == torch.float64
        if coarse is None or rounded or void_pixels is not None:
            return super().forward(output, label, void_pixels)
        return upsampled_loss(coarse, label, Loss("balanced_bce", positive_weight=loss.pos_weight))


class LazyMTINet(nn.Module):
    """The network, whose final predictions are upsampled when they are read."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Images (B, 3, H, W) → final predictions by task, and "deep_supervision"."""
        network: Any = self
        maps, size = network.backbone(x), x.shape[-2:]
        scales: dict[str, Any] = {}
        passed_on: list[Any] = []
        for k in (3, 2, 1, 0):
            scales[f"scale_{k}"] = initial = getattr(self, f"scale_{k}")(maps[k], *passed_on)
            passed_on = [getattr(self, f"fpm_scale_{k}")(initial)] if k else []
        scales = {name: scales[name] for name in sorted(scales)}
        distilled = [getattr(self, f"distillation_{name}")(initial) for name, initial in scales.items()]
        out: dict[str, Any] = {"deep_supervision": scales}
        for task in network.tasks:
            out[task] = upsampled_lazily(self, network.heads[task]([features[task] for features in distilled]), size)
        return out


class LazyPADNet(nn.Module):
    """The network, whose final predictions are upsampled when they are read."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Images (B, 3, H, W) → final predictions by task, and "initial_<task>"."""
        network: Any = self
        initial = network.initial_task_prediction_heads(network.backbone(x))
        distilled = network.multi_modal_distillation(initial)
        out: dict[str, Any] = {f"initial_{task}": initial[task] for task in network.auxilary_tasks}
        for task in network.tasks:
            out[task] = upsampled_lazily(self, network.heads[task](distilled[task]), x.shape[-2:])
        return out


class LazyMultiTaskModel(nn.Module):
    """One backbone and a head for each task, whose predictions are upsampled when they are read."""

    def forward(self, x: Tensor) -> dict[str, LazyMap]:
        """Images (B, 3, H, W) → predictions by task."""
        network: Any = self
        shared = network.backbone(x)
        return {task: upsampled_lazily(self, network.decoders[task](shared), x.shape[2:]) for task in network.tasks}


class LazySingleTaskModel(nn.Module):
    """A backbone and a head, whose prediction is upsampled when it is read."""

    def forward(self, x: Tensor) -> dict[str, LazyMap]:
        """Images (B, 3, H, W) → the prediction, by its task."""
        network: Any = self
        return {network.task: upsampled_lazily(self, network.decoder(network.backbone(x)), x.shape[2:])}


_IGNORED = 255


def _finest_first(x: list[Tensor]) -> bool:
    """Whether no map is larger than the first; downsampling does not commute with what the operators compute."""
    return all(m.shape[2] <= x[0].shape[2] and m.shape[3] <= x[0].shape[3] for m in x[:4])


def _losses(
    criterion: Any, deep: Iterable[tuple[str, str, Tensor]], pred: Mapping[str, Any], gt: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """By name, deep ones in front, and their sum in this order."""
    height, width = gt[criterion.tasks[0]].shape[-2:]
    terms = [(name, task, LazyMap(coarse, (height, width))) for name, task, coarse in deep]
    terms += [(task, task, pred[task]) for task in criterion.tasks]
    losses: dict[str, Any] = {}
    total: Any = 0.0
    for name, task, prediction in terms:
        losses[name] = criterion.loss_ft[task](prediction, gt[task])
        total = total + criterion.loss_weights[task] * losses[name]
    return losses | {"total": total}


def _fuse_refusal(module: Any) -> str | None:
    layers = module.last_layer
    if type(layers) is not nn.Sequential or len(layers) != 3:
        return "last_layer is no Sequential of three layers"
    return against_pointwise("last_layer[0]", layers[0])


def _head_refusal(module: Any) -> str | None:
    return against_head("last_layer", module.last_layer)


def _classes_refusal(loss: Any) -> str | None:
    inner, softmax = loss.criterion, loss.softmax
    if type(softmax) is not nn.LogSoftmax or softmax.dim != 1 or type(inner) is not nn.NLLLoss:
        return f"computes {inner} of {softmax}, only NLLLoss of LogSoftmax over channels is fused"
    if inner.weight is not None or inner.reduction != "mean":
        return f"weighs classes or takes the {inner.reduction}, only a plain mean is fused"
    return None


def _depth_refusal(loss: Any) -> str | None:
    inner = loss.loss
    if type(inner) is not nn.L1Loss or inner.reduction != "mean":
        return f"computes {inner}, only the mean of L1Loss is fused"
    return None


def _binary_refusal(loss: Any) -> str | None:
    if not loss.size_average:
        return "is no mean over pixels, only size_average=True is fused"
    weight = loss.pos_weight
    if weight is not None and not (isinstance(weight, (int, float)) and 0 <= weight <= 1):
        return f"pos_weight is {weight}, only None and numbers from 0 to 1 are fused"
    return None


FUSE = register(
    Replacement(
        kind="mti_net.fuse",
        class_name="HighResolutionFuse",
        fingerprints=("27bb3461ff80bb6a",),
        fused=FusedFuse,
        refusal=_fuse_refusal,
        calls=("last_layer.1", "last_layer.2"),
    )
)
HEAD = register(
    Replacement(
        kind="mti_net.head",
        class_name="HighResolutionHead",
        fingerprints=("27bb3461ff80bb6a",),
        fused=FusedHead,
        refusal=_head_refusal,
    )
)
MTI_NET_LOSS = register(
    Replacement(
        kind="mti_net.deep_supervision",
        class_name="MTINetLoss",
        fingerprints=("a44f278c4f535391",),
        fused=FusedMTINetLoss,
        calls=("*",),
        hands_lazy=True,
    )
)
PAD_NET_LOSS = register(
    Replacement(
        kind="mti_net.deep_supervision",
        class_name="PADNetLoss",
        fingerprints=("cd479425ad6224d5",),
        fused=FusedPADNetLoss,
        calls=("*",),
        hands_lazy=True,
    )
)
CLASSES, DEPTH, BINARY = (
    register(
        Replacement(
            kind="mti_net.loss",
            class_name=class_name,
            fingerprints=(fingerprint,),
            fused=fused,
            refusal=refusal,
            lazy=True,
        )
    )
    for class_name, fingerprint, fused, refusal in (
        ("SoftMaxwithLoss", "a60a2e7325ffe9c7", FusedClasses, _classes_refusal),
        ("DepthLoss", "32710682dffdb556", FusedDepth, _depth_refusal),
        ("BalancedCrossEntropyLoss", "ee1a91345df783f8", FusedBinary, _binary_refusal),
    )
)
NORMALS = leave(
    "mti_net.loss",
    "NormalsLoss",
    ("01fda359e7499179",),
    "divides by the norm + 1e-12, where the fused loss divides by the larger of norm and 1e-12",
)
DISTILLATION = leave(
    "mti_net.distillation",
    "MultiTaskDistillationModule",
    ("008c986c61386298",),
    "weighs each pixel by a sigmoid of its own, and attends to none",
)
MTI_NET, PAD_NET, MULTI_TASK, SINGLE_TASK = (
    register(
        Replacement(
            kind="mti_net.predictions",
            class_name=class_name,
            fingerprints=(fingerprint,),
            fused=fused,
            calls=("*",),
            lazy=True,
            hands_lazy=True,
        )
    )
    for class_name, fingerprint, fused in (
        ("MTINet", "ad27b8855062220d", LazyMTINet),
        ("PADNet", "03ff77042dcd24ac", LazyPADNet),
        ("MultiTaskModel", "43a862840c84d3fd", LazyMultiTaskModel),
        ("SingleTaskModel", "2fa8e316a5f4d078", LazySingleTaskModel),
    )
)
