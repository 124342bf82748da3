"""Cross-scale attention inside one task, and the aggregation of all scales into its prediction."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from seqca.ops import aggregation_head, from_coarser

from .batch_norm import running_statistics, synchronised_over, update_running_statistics, uses_batch_statistics
from .checks import check_map, check_positive, check_scales, checked_channels
from .cross_attention import ConvBN, CrossAttention, attend


class CrossScaleAttention(nn.Module):
    """CSAM: every scale gathers from every coarser scale of the same task (Kim et al. 2022, section 2.4).

    For k < j: A_kj = CAM_k(F̂^k, s) with s = BN(conv1×1(F̂^j)), C_j → C_k, no activation and no resizing. CAM_k is shared
    by the sources; its running statistics are updated once per source, j ascending. All sources of a scale are one call
    of `seqca.ops.cross_attention`.

    Args:
        channels_per_scale: C_k, the finest scale first.
    """

    def __init__(self, channels_per_scale: Sequence[int]) -> None:
        super().__init__()
        self.channels = channels = checked_channels(channels_per_scale)
        self.attention = nn.ModuleList(CrossAttention(c) for c in channels[:-1])
        self.projections = nn.ModuleList(
            nn.ModuleList(ConvBN(coarser, c) for coarser in channels[k + 1 :]) for k, c in enumerate(channels[:-1])
        )

    def forward(self, features: Sequence[Tensor]) -> list[list[Tensor]]:
        """Maps (B, C_k, H_k, W_k), finest first → for each scale but the last, [A_kj for j = k+1 …] at its size."""
        return attend_across_scales([self], [features])[0]

    def layers(self, k: int) -> list[ConvBN]:
        """Of the exchange of scale k, in the order of `seqca.ops.cross_attention`."""
        attention = cast(CrossAttention, self.attention[k])
        projections = cast(nn.ModuleList, self.projections[k])
        sources = [layer for projection in projections for layer in (projection, *attention.key_layers())]
        return [*attention.query_layers(), *cast(list[ConvBN], sources)]


def attend_across_scales(
    modules: Sequence[CrossScaleAttention], features: Sequence[Sequence[Tensor]]
) -> list[list[list[Tensor]]]:
    """What several modules of the same channels return for the maps of several tasks.

    One call for each scale, or two where some of the modules are in training and others in evaluation mode.

    Args:
        modules: by task.
        features: by task, each as `CrossScaleAttention.forward` takes them.
    """
    gathered: list[list[list[Tensor]]] = [[] for _ in modules]
    for mode in (True, False):
        which = [i for i, module in enumerate(modules) if module.training == mode]
        for k in range(len(modules[0].channels) - 1):
            attended = _attend_from_coarser([modules[i] for i in which], [features[i] for i in which], k)
            for i, maps in zip(which, attended, strict=True):
                gathered[i].append(maps)
    return gathered


def _attend_from_coarser(
    modules: Sequence[CrossScaleAttention], features: Sequence[Sequence[Tensor]], k: int
) -> list[list[Tensor]]:
    """By task, what its map of scale k gathers from every coarser one."""
    if not modules:
        return []
    for module, maps in zip(modules, features, strict=True):
        check_scales("features", maps, module.channels, next(module.parameters(), None))
    coarser = len(modules[0].channels) - 1 - k
    # The published network computes the queries once for each source.
    updates = [coarser, coarser, *[1] * (4 * coarser)] * len(modules)
    maps = [x for own in features for x in own[k:]]
    layers = [layer for module in modules for layer in module.layers(k)]
    attended = attend(maps, layers, *from_coarser(len(modules), coarser), updates)
    return [list(together.split(modules[0].channels[k], 1)) for together in attended]


def aggregate(
    maps: Sequence[Tensor], conv: nn.Conv2d, bn: nn.BatchNorm2d | nn.SyncBatchNorm, prediction: nn.Conv2d
) -> Tensor:
    """prediction(relu(bn(conv(concatenation of the upsampled maps)))) in one call of `seqca.ops.aggregation_head`.

    Statistics are those of a forward pass of `bn`: in training it normalises by the batch, over the processes of an
    `nn.SyncBatchNorm`, and updates the running ones; in evaluation it normalises by these.

    Args:
        maps: (B, C_j, H_j, W_j), the first at the finest resolution, as of the operator. One that stands several times,
            as the same tensor object, is read once.
        conv: 1×1, Σ C_j → C channels.
        bn: of C channels, with scale and shift.
        prediction: 1×1, C → C_out channels. The forward hooks of the three layers are not run.

    Returns:
        (B, C_out, H_0, W_0), in the dtype of the maps (after autocast).

    Raises:
        TypeError, ValueError: maps or layers that do not fit together, see the operator; a convolution with a stride,
            padding or groups, or that is no 1×1.
    """
    if not isinstance(bn, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        raise TypeError(f"bn: got {type(bn).__name__}, expected a BatchNorm2d or SyncBatchNorm")
    if not bn.affine:
        raise ValueError("bn: got affine=False, expected a batch norm with scale and shift")
    for name, layer in (("conv", conv), ("prediction", prediction)):
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"{name}: got {type(layer).__name__}, expected a Conv2d")
        if layer.kernel_size != (1, 1) or layer.groups != 1:
            height, width = layer.kernel_size
            raise ValueError(
                f"{name}: got a {height}×{width} convolution of {layer.groups} groups, expected 1×1 of one"
            )
        if layer.stride != (1, 1) or layer.padding not in ((0, 0), "same", "valid"):
            raise ValueError(f"{name}: got stride {layer.stride}, padding {layer.padding}, expected neither")
    layers = (conv.weight, conv.bias, bn.weight, bn.bias, prediction.weight, prediction.bias)
    if not uses_batch_statistics(bn):
        mean, variance = running_statistics(bn)
        return aggregation_head(maps, *layers, running_mean=mean, running_var=variance, eps=bn.eps).prediction
    predicted, mean, variance = aggregation_head(maps, *layers, eps=bn.eps, group=synchronised_over(bn))
    update_running_statistics([bn], [mean], [variance])
    return predicted


class FeatureAggregation(nn.Module):
    """All scales and what each gathered, brought to the finest scale, to one task's prediction.

    Concatenates [F̂^k, A_kj] for every k < j in order, then the coarsest map, each upsampled bilinearly; 1×1 convolution
    with as many channels as that has, batch norm, ReLU, 1×1 convolution: one call of `seqca.ops.aggregation_head`. The
    layers `conv`, `bn` and `prediction` hold parameters and statistics; their forward hooks are not run. As
    `nn.SyncBatchNorm`, which `convert_sync_batchnorm` makes of it, `bn` takes statistics over processes.

    Args:
        channels_per_scale: C_k, the finest scale first.
        out_channels: channels of the prediction.
        attended: whether the maps A_kj take part. Without them the maps F̂^k are concatenated, once each.
    """

    def __init__(self, channels_per_scale: Sequence[int], out_channels: int, attended: bool = True) -> None:
        super().__init__()
        self.channels = channels = checked_channels(channels_per_scale)
        check_positive(out_channels=out_channels)
        self.attended = attended
        coarser = range(len(channels) - 1, 0, -1)
        total = sum(2 * c * n for c, n in zip(channels[:-1], coarser, strict=True)) if attended else sum(channels[:-1])
        total += channels[-1]
        self.conv = nn.Conv2d(total, total, 1)
        self.bn = nn.BatchNorm2d(total)
        self.prediction = nn.Conv2d(total, out_channels, 1)

    def forward(self, features: Sequence[Tensor], attended: Sequence[Sequence[Tensor]] | None = None) -> Tensor:
        """Maps as they go into `CrossScaleAttention` and come out of it → (B, out_channels, H_0, W_0)."""
        check_scales("features", features, self.channels, self.conv.weight)
        if (attended is not None) != self.attended:
            expected = "the maps of CrossScaleAttention" if self.attended else "None (built with attended=False)"
            raise ValueError(f"attended: got {'maps' if attended is not None else 'None'}, expected {expected}")
        if attended is None:
            maps = list(features)
        else:
            self._check(features, attended)
            pairs = zip(features[:-1], attended, strict=True)
            maps = [x for own, gathered in pairs for a in gathered for x in (own, a)]
            maps.append(features[-1])
        return aggregate(maps, self.conv, self.bn, self.prediction)

    def _check(self, features: Sequence[Tensor], attended: Sequence[Sequence[Tensor]]) -> None:
        if not isinstance(attended, (list, tuple)) or not all(isinstance(maps, (list, tuple)) for maps in attended):
            raise TypeError("attended: got another structure, expected a list of lists of maps")
        counts = [len(gathered) for gathered in attended]
        expected = list(range(len(features) - 1, 0, -1))
        if counts != expected:
            raise ValueError(f"attended: got {counts} maps by scale, expected {expected}")
        for k, (own, gathered) in enumerate(zip(features[:-1], attended, strict=True)):
            for i, x in enumerate(gathered):
                where = f"attended[{k}][{i}]"
                check_map(where, x, own.shape[1], self.conv.weight)
                if x.shape != own.shape:
                    shapes = tuple(x.shape), tuple(own.shape)
                    raise ValueError(f"{where}: got shape {shapes[0]}, expected {shapes[1]} as of features[{k}]")
