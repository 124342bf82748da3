"""Blocks and the whole of the published network, called what published checkpoints call them."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqca.configuration import NETWORK
from seqca.models.backbone import create_backbone
from seqca.models.network import NetworkOutput
from seqca.models.published import published_names

from .objective import upsampled
from .window_attention import SelfAttention

SCALES = range(len(NETWORK.strides))


class BasicBlock(nn.Module):
    """relu(BN(conv3×3(relu(BN(conv3×3(x))))) + shortcut(x))."""

    def __init__(self, in_channels: int, channels: int, momentum: float = 0.1, project: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, momentum=momentum)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, momentum=momentum)
        self.downsample: nn.Module = nn.Identity()
        if project or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, channels, H, W)."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.downsample(x))


class TaskFeatures(nn.Module):
    """Two basic blocks for each task, and its deep prediction."""

    def __init__(self, in_channels: int, channels: int, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.refinement = nn.ModuleDict(
            {t: nn.Sequential(BasicBlock(in_channels, channels), BasicBlock(channels, channels)) for t in tasks}
        )
        self.decoders = nn.ModuleDict({task: nn.Conv2d(channels, n, 1) for task, n in tasks.items()})

    def forward(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """{task: (B, in_channels, H, W)} → features and deep predictions."""
        features = {task: refine(inputs[task]) for task, refine in self.refinement.items()}
        return features, {task: decode(features[task]) for task, decode in self.decoders.items()}


class Projection(nn.Module):
    """1×1 convolution, batch norm, activation.

    The batch norm is of (B, C, N): of (B, C, H, W) with a single image, torch 2.14 computes a wrong gradient on a CPU
    where the incoming one has the strides that attention gives it.
    """

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm1d(channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        y = self.conv(x)
        return self.activation(self.bn(y.flatten(2))).view(y.shape)


class CrossAttention(nn.Module):
    """CAM of one pair."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def two_layers() -> nn.Module:
            return nn.Sequential(Projection(channels, nn.ReLU()), Projection(channels, nn.Softplus()))

        self.query_project, self.key_project = two_layers(), two_layers()
        self.value_project = Projection(channels, nn.ReLU())

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, H', W') → (B, C, H, W)."""
        q = self.query_project(target).flatten(2)
        k, v = self.key_project(source).flatten(2), self.value_project(source).flatten(2)
        state, normaliser = v @ k.mT, k.sum(2, keepdim=True)
        attended = (state @ q) / (normaliser.mT @ q).clamp(min=1e-12)
        return attended.view(target.shape)


class CrossTaskAttention(nn.Module):
    """CTAM: every ordered pair of tasks one after the other."""

    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        super().__init__()
        self.cross_attention = nn.ModuleDict(
            {t: nn.ModuleDict({s: CrossAttention(channels) for s in tasks if s != t}) for t in tasks}
        )
        self.dimensionality_reduction = BasicBlock(2 * channels * (len(tasks) - 1), channels, momentum=0.01)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{task: (B, C, H, W)} → the same."""
        result = {}
        for task, sources in self.cross_attention.items():
            own, pieces = features[task], []
            for source in reversed(list(sources)):
                pieces += [own, sources[source](own, features[source])]
            result[task] = own + self.dimensionality_reduction(torch.cat(pieces, 1))
        return result


class SqueezeExcitation(nn.Module):
    """Scales channels by what their means say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 16
        self.squeeze = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return x * self.squeeze(x.mean((2, 3)))[:, :, None, None]


class FeaturePropagation(nn.Module):
    """FPMA, but for the upsampling to the next scale."""

    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        super().__init__()
        self.swtf = SelfAttention(len(tasks) * channels, 1, 4)
        self.dimensionality_reduction = BasicBlock(len(tasks) * channels, channels, project=True)
        self.se = nn.ModuleDict({task: SqueezeExcitation(channels) for task in tasks})

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{task: (B, C, H, W)} → the same."""
        joined = torch.cat(list(features.values()), 1)
        grouped = joined.unflatten(1, (-1, len(features)))
        weights = self.swtf(joined).unflatten(1, (-1, len(features))).softmax(2)
        shared = self.dimensionality_reduction((weights * grouped).flatten(1, 2))
        return {task: excite(shared) + features[task] for task, excite in self.se.items()}


class Head(nn.Module):
    """CSAM and feature aggregation of one task."""

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.scales = len(channels)
        for k, j in self._pairs():
            if j == k + 1:
                self.add_module(f"cross_scale_attention{k}", CrossAttention(channels[k]))
            projection = nn.Sequential(nn.Conv2d(channels[j], channels[k], 1, bias=False), nn.BatchNorm2d(channels[k]))
            self.add_module(f"upsample{j}{k}", projection)
        total = 2 * sum(channels[k] for k, _ in self._pairs()) + channels[-1]
        self.last_layer = nn.Sequential(
            nn.Conv2d(total, total, 1), nn.BatchNorm2d(total), nn.ReLU(), nn.Conv2d(total, out_channels, 1)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps of all scales, finest first → (B, out_channels, H_0, W_0)."""
        maps = []
        for k, j in self._pairs():
            source = self.get_submodule(f"upsample{j}{k}")(features[j])
            attended = self.get_submodule(f"cross_scale_attention{k}")(features[k], source)
            maps.append(torch.cat([features[k], attended], 1))
        size = features[0].shape[2:]
        return self.last_layer(torch.cat([upsampled(x, size) for x in [*maps, features[-1]]], 1))

    def _pairs(self) -> list[tuple[int, int]]:
        return [(k, j) for k in range(self.scales) for j in range(k + 1, self.scales)]


class PublishedNetwork(nn.Module):
    """The network; `load_state_dict` takes the published format, `seqca.models.to_published_state` writes it.

    Args:
        tasks: {name: output channels}, two or more, in order.
    """

    def __init__(self, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.backbone = create_backbone(NETWORK.backbone)
        channels = NETWORK.channels
        for k in SCALES:
            stage = SelfAttention(NETWORK.backbone_channels[k], NETWORK.attention_depth, NETWORK.attention_heads)
            self.add_module(f"swTransform{k + 1}", stage)
            coarser = channels[k + 1] if k < SCALES[-1] else 0
            self.add_module(f"scale_{k}", TaskFeatures(channels[k] + coarser, channels[k], tasks))
            self.add_module(f"distillation_scale_{k}", CrossTaskAttention(list(tasks), channels[k]))
            if k > 0:
                self.add_module(f"fpm_scale_{k}", FeaturePropagation(list(tasks), channels[k]))
        self.heads = nn.ModuleDict({task: Head(channels, n) for task, n in tasks.items()})

    def forward(self, images: Tensor) -> NetworkOutput:
        """(B, 3, H, W) with sides that are multiples of 32 → predictions at stride 4, and the deep ones."""
        stages = [self.get_submodule(f"swTransform{k + 1}") for k in SCALES]
        maps = [torch.cat([stage(x), x], 1) for stage, x in zip(stages, self.backbone(images), strict=True)]
        exchanged: list[dict[str, Tensor]] = [{} for _ in SCALES]
        deep: list[dict[str, Tensor]] = [{} for _ in SCALES]
        inputs = dict.fromkeys(self.heads, maps[-1])
        for k in reversed(SCALES):
            features, deep[k] = self.get_submodule(f"scale_{k}")(inputs)
            exchanged[k] = self.get_submodule(f"distillation_scale_{k}")(features)
            if k > 0:
                size = maps[k - 1].shape[2:]
                propagated = self.get_submodule(f"fpm_scale_{k}")(exchanged[k])
                inputs = {t: torch.cat([maps[k - 1], upsampled(x, size)], 1) for t, x in propagated.items()}
        final = {task: head([exchanged[k][task] for k in SCALES]) for task, head in self.heads.items()}
        return NetworkOutput(final, tuple(deep))


def in_merged_form(gradients: Mapping[str, Tensor], keys: Iterable[str], tasks: Sequence[str]) -> list[Tensor]:
    """Gradients by published name as those of `SequentialCrossAttentionNet`, which keeps several pairs in one tensor.

    Args:
        gradients: of all parameters that take part.
        keys: of the parameters of the package's network, in the order of the result.
        tasks: in order.
    """
    return [torch.cat([gradients[name] for name in published_names(key, tasks)]) for key in keys]
