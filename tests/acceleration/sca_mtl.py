"""Small stand-ins for the modules of SCA_MTL: the names of its checkpoints, the mathematics of the paper."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import BasicBlock

CHANNELS = (4, 6, 8, 10)


class ConvBNReLU(nn.Module):
    def __init__(self, channels: int, activated: bool) -> None:
        super().__init__()
        self.use_norm, self.use_activation = True, activated
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        if activated:
            self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return self.activation(y) if self.use_activation else y


class GlobalContextAttentionBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-12

        def features() -> nn.Module:
            return nn.Sequential(ConvBNReLU(channels, True), ConvBNReLU(channels, False), nn.Softplus())

        self.query_project, self.key_project = features(), features()
        self.value_project = ConvBNReLU(channels, True)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        q, k, v = (
            x.flatten(2) for x in (self.query_project(target), self.key_project(source), self.value_project(source))
        )
        norm = torch.einsum("bcn,bcm->bm", k, q).clamp(min=self.eps)
        return (torch.einsum("bdn,bcn,bcm->bdm", v, k, q) / norm[:, None]).view(target.shape)


class MultiTaskDistillationModule(nn.Module):
    def __init__(self, tasks: Sequence[str], auxiliary: Sequence[str], channels: int) -> None:
        super().__init__()
        self.tasks, self.auxilary_tasks = list(tasks), list(auxiliary)  # the spelling of the code base
        self.dimensionality_reduction = BasicBlock(2 * channels * (len(auxiliary) - 1), channels)
        self.cross_attention = nn.ModuleDict(
            {t: nn.ModuleDict({s: GlobalContextAttentionBlock(channels) for s in auxiliary if s != t}) for t in tasks}
        )

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        gathered = {}
        for task, sources in self.cross_attention.items():
            own, pieces = x[f"features_{task}"], []
            for source, attention in sources.items():
                pieces = [own, attention(own, x[f"features_{source}"]), *pieces]
            gathered[task] = own + self.dimensionality_reduction(torch.cat(pieces, 1))
        return gathered


class HighResolutionHead(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        for k in range(3):
            self.add_module(f"cross_scale_attention{k}", GlobalContextAttentionBlock(CHANNELS[k]))
            for j in range(k + 1, 4):
                conv = nn.Conv2d(CHANNELS[j], CHANNELS[k], 1, bias=False)
                self.add_module(f"upsample{j}{k}", nn.Sequential(conv, nn.BatchNorm2d(CHANNELS[k])))
        total = 6 * CHANNELS[0] + 4 * CHANNELS[1] + 2 * CHANNELS[2] + CHANNELS[3]
        layers = nn.Conv2d(total, total, 1), nn.BatchNorm2d(total), nn.ReLU(), nn.Conv2d(total, outputs, 1)
        self.last_layer = nn.Sequential(*layers)

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        pieces = []
        for k in range(3):
            for j in range(k + 1, 4):
                source = getattr(self, f"upsample{j}{k}")(x[j])
                pieces += [x[k], getattr(self, f"cross_scale_attention{k}")(x[k], source)]
        size = x[0].shape[2:]
        upsampled = [F.interpolate(piece, size, mode="bilinear", align_corners=False) for piece in (*pieces, x[3])]
        return self.last_layer(torch.cat(upsampled, 1))


class WindowAttention(nn.Module):
    """Softmax attention inside windows, with a bias for each pair of places."""

    def __init__(self, channels: int, places: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = nn.Parameter(torch.zeros(places, places))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(query, key, value, self.bias if mask is None else self.bias + mask)


class Exchange(nn.Module):
    """A map for each task, and the exchange between them."""

    def __init__(self, tasks: Sequence[str] = ("semseg", "depth", "edge"), heads: Sequence[str] | None = None) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({task: nn.Conv2d(3, CHANNELS[0], 3, padding=1) for task in tasks})
        self.distillation = MultiTaskDistillationModule(heads or tasks, tasks, CHANNELS[0])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) → {task: (B, C, H, W)}."""
        return self.distillation({f"features_{task}": stage(images) for task, stage in self.stages.items()})


class Scales(nn.Module):
    """A map of each scale, and the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, c, 3, padding=1) for c in CHANNELS)
        self.head = HighResolutionHead(2)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of 8 → (B, 2, H, W)."""
        return self.head([stage(F.avg_pool2d(images, 2**k)) for k, stage in enumerate(self.stages)])


class MTINet(nn.Module):
    """The whole: its backbone, self-attention, predictions of each scale and propagation are single layers here."""

    def __init__(self, tasks: Sequence[str] = ("semseg", "depth")) -> None:
        super().__init__()
        self.tasks = list(tasks)
        halves = [c // 2 for c in CHANNELS]
        self.backbone = Backbone(halves)
        for k, c in enumerate(CHANNELS):
            self.add_module(f"swTransform{k + 1}", Listed(halves[k]))
            self.add_module(f"scale_{k}", Predictions(tasks, c + sum(CHANNELS[k + 1 : k + 2]), c))
            self.add_module(f"distillation_scale_{k}", MultiTaskDistillationModule(tasks, tasks, c))
            if k:
                self.add_module(f"fpm_scale_{k}", Mapped(tasks, c))
        self.heads = nn.ModuleDict({task: HighResolutionHead(2) for task in tasks})

    def forward(self, images: Tensor) -> dict[str, Any]:
        maps = [
            torch.cat([getattr(self, f"swTransform{k + 1}")(m)[0], m], 1) for k, m in enumerate(self.backbone(images))
        ]
        deep, exchanged, coarser = {}, {}, None
        for k in (3, 2, 1, 0):
            deep[k] = getattr(self, f"scale_{k}")(maps[k], coarser)
            exchanged[k] = getattr(self, f"distillation_scale_{k}")(deep[k])
            coarser = getattr(self, f"fpm_scale_{k}")(exchanged[k]) if k > 0 else None
        output: dict[str, Any] = {"deep_supervision": {f"scale_{k}": deep[k] for k in range(4)}}
        for task in self.tasks:
            coarse = self.heads[task]([exchanged[k][task] for k in range(4)])
            output[task] = F.interpolate(coarse, images.shape[2:], mode="bilinear", align_corners=False)
        return output


class Backbone(nn.Module):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, c, 1) for c in channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [stage(F.avg_pool2d(images, 2 ** (k + 1))) for k, stage in enumerate(self.stages)]


class Listed(nn.Conv2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [super().forward(x)]


class Mapped(nn.ModuleDict):
    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        super().__init__({task: nn.Conv2d(channels, channels, 1) for task in tasks})

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {task: conv(x[task]) for task, conv in self.items()}


class Predictions(nn.Module):
    def __init__(self, tasks: Sequence[str], in_channels: int, channels: int) -> None:
        super().__init__()
        self.refinement = nn.ModuleDict({task: nn.Conv2d(in_channels, channels, 1) for task in tasks})
        self.decoders = nn.ModuleDict({task: nn.Conv2d(channels, 2, 1) for task in tasks})

    def forward(self, x: Tensor, coarser: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        output = {}
        for task, refine in self.refinement.items():
            up = [] if coarser is None else [F.interpolate(coarser[task], scale_factor=2, mode="bilinear")]
            output[f"features_{task}"] = refine(torch.cat([x, *up], 1))
            output[task] = self.decoders[task](output[f"features_{task}"])
        return output
