"""Stand-ins for the modules of MTI-Net: small, our own, with the names and attributes that the replacements read."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TASKS = ("semseg", "depth", "edge", "normals")
OUTPUTS = {"semseg": 5, "depth": 1, "edge": 1, "normals": 3}
CHANNELS = (4, 6, 8, 10)
IGNORED = 255


def upsampled(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def side_by_side(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat([maps[0], *(upsampled(x, maps[0].shape[2:]) for x in maps[1:])], 1)


class HighResolutionFuse(nn.Module):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        total = sum(channels)
        self.last_layer = nn.Sequential(nn.Conv2d(total, total, 1), nn.BatchNorm2d(total), nn.ReLU())

    def forward(self, x: list[Tensor]) -> Tensor:
        return self.last_layer(side_by_side(x))


class HighResolutionHead(nn.Module):
    def __init__(self, channels: Sequence[int], outputs: int) -> None:
        super().__init__()
        total = sum(channels)
        self.last_layer = nn.Sequential(
            nn.Conv2d(total, total, 1), nn.BatchNorm2d(total), nn.ReLU(), nn.Conv2d(total, outputs, 1)
        )

    def forward(self, x: list[Tensor]) -> Tensor:
        return self.last_layer(side_by_side(x))


class Pyramid(nn.Module):
    """Maps at strides 2, 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *CHANNELS)
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs[k], inputs[k + 1], 3, stride=2, padding=1) for k in range(len(CHANNELS))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps


class Initial(nn.Module):
    """A feature map and a prediction of each task, from a map and what coarser ones said."""

    def __init__(self, tasks: Sequence[str], channels: int, coarser: int) -> None:
        super().__init__()
        self.features = nn.ModuleDict({task: nn.Conv2d(channels + coarser, channels, 1) for task in tasks})
        self.decoders = nn.ModuleDict({task: nn.Conv2d(channels, OUTPUTS[task], 1) for task in tasks})

    def forward(self, x: Tensor, coarser: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        out = {}
        for task, layer in self.features.items():
            own = [x] if coarser is None else [x, upsampled(coarser[task], x.shape[2:])]
            out[f"features_{task}"] = layer(torch.cat(own, 1))
            out[task] = self.decoders[task](out[f"features_{task}"])
        return out


class Features(nn.Module):
    """The feature map of each task through a layer of its own."""

    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({task: nn.Conv2d(channels, channels, 1) for task in tasks})

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {task: layer(x[f"features_{task}"]) for task, layer in self.layers.items()}


class MultiTaskDistillationModule(nn.Module):
    """Adds to the feature map of each task what the others say, each pixel weighed by a sigmoid."""

    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        super().__init__()
        self.said = nn.ModuleDict({task: nn.Conv2d(channels, channels, 1) for task in tasks})
        self.weight = nn.ModuleDict({task: nn.Conv2d(channels, channels, 1) for task in tasks})

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        own = {task: x[f"features_{task}"] for task in self.said}
        said = {task: layer(own[task]) * self.weight[task](own[task]).sigmoid() for task, layer in self.said.items()}
        return {task: own[task] + sum(said[other] for other in said if other != task) for task in own}


class MTINet(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.backbone = Pyramid()
        for k, channels in enumerate(CHANNELS):
            coarser = CHANNELS[k + 1] if k < 3 else 0
            self.add_module(f"scale_{k}", Initial(tasks, channels, coarser))
            self.add_module(f"distillation_scale_{k}", MultiTaskDistillationModule(tasks, channels))
            if k:
                self.add_module(f"fpm_scale_{k}", Features(tasks, channels))
        self.heads = nn.ModuleDict({task: HighResolutionHead(CHANNELS, OUTPUTS[task]) for task in tasks})

    def forward(self, x: Tensor) -> dict:
        maps, initial, said = self.backbone(x), {}, None
        for k in reversed(range(4)):
            initial[f"scale_{k}"] = getattr(self, f"scale_{k}")(maps[k], said)
            said = getattr(self, f"fpm_scale_{k}")(initial[f"scale_{k}"]) if k else None
        distilled = [getattr(self, f"distillation_scale_{k}")(initial[f"scale_{k}"]) for k in range(4)]
        out = {"deep_supervision": {f"scale_{k}": initial[f"scale_{k}"] for k in range(4)}}
        for task in self.tasks:
            out[task] = upsampled(self.heads[task]([features[task] for features in distilled]), x.shape[2:])
        return out


class PADNet(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        self.tasks = self.auxilary_tasks = list(tasks)
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.BatchNorm2d(6))
        self.initial_task_prediction_heads = Initial(tasks, 6, 0)
        self.multi_modal_distillation = MultiTaskDistillationModule(tasks, 6)
        self.heads = nn.ModuleDict({task: nn.Conv2d(6, OUTPUTS[task], 1) for task in tasks})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        initial = self.initial_task_prediction_heads(self.backbone(x))
        out = {f"initial_{task}": initial[task] for task in self.auxilary_tasks}
        distilled = self.multi_modal_distillation(initial)
        for task in self.tasks:
            out[task] = upsampled(self.heads[task](distilled[task]), x.shape[2:])
        return out


class MultiTaskModel(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.backbone = nn.Sequential(Pyramid(), HighResolutionFuse(CHANNELS))
        self.decoders = nn.ModuleDict({task: nn.Conv2d(sum(CHANNELS), OUTPUTS[task], 1) for task in tasks})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        shared = self.backbone(x)
        return {task: upsampled(self.decoders[task](shared), x.shape[2:]) for task in self.tasks}


class SingleTaskModel(nn.Module):
    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self.backbone = Pyramid()
        self.decoder = HighResolutionHead(CHANNELS, OUTPUTS[task])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {self.task: upsampled(self.decoder(self.backbone(x)), x.shape[2:])}


class SoftMaxwithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.softmax = nn.LogSoftmax(1)
        self.criterion = nn.NLLLoss(ignore_index=IGNORED)

    def forward(self, out: Tensor, label: Tensor) -> Tensor:
        return self.criterion(self.softmax(out), label.squeeze(1).long())


class DepthLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.L1Loss()

    def forward(self, out: Tensor, label: Tensor) -> Tensor:
        valid = label != IGNORED
        return self.loss(torch.masked_select(out, valid), torch.masked_select(label, valid))


class BalancedCrossEntropyLoss(nn.Module):
    def __init__(self, size_average: bool = True, pos_weight: float | None = None) -> None:
        super().__init__()
        self.size_average, self.pos_weight = size_average, pos_weight

    def forward(self, output: Tensor, label: Tensor, void_pixels: Tensor | None = None) -> Tensor:
        positive = (label >= 0.5).float()
        weight = (1 - positive).sum() / positive.numel() if self.pos_weight is None else self.pos_weight
        losses = F.binary_cross_entropy_with_logits(output, positive.to(output.dtype), reduction="none")
        loss = weight * (positive * losses).sum() + (1 - weight) * ((1 - positive) * losses).sum()
        return loss / label.numel() if self.size_average else loss


class NormalsLoss(nn.Module):
    def forward(self, out: Tensor, label: Tensor) -> Tensor:
        valid = label != IGNORED
        unit = out / (torch.linalg.vector_norm(out, dim=1, keepdim=True) + 1e-12)
        return (unit - label)[valid].abs().sum() / max(int(valid.sum()), 1e-6)


def losses(tasks: Sequence[str] = TASKS) -> nn.ModuleDict:
    every = {
        "semseg": SoftMaxwithLoss(),
        "depth": DepthLoss(),
        "edge": BalancedCrossEntropyLoss(pos_weight=0.95),
        "normals": NormalsLoss(),
    }
    return nn.ModuleDict({task: every[task] for task in tasks})


class MTINetLoss(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        self.tasks = self.auxilary_tasks = list(tasks)
        self.loss_ft = losses(tasks)
        self.loss_weights = {task: 1.0 + i for i, task in enumerate(tasks)}

    def forward(self, pred: dict, gt: dict[str, Tensor]) -> dict[str, Tensor]:
        size, out, total = gt[self.tasks[0]].shape[2:], {}, 0.0
        for k in range(4):
            for task in self.auxilary_tasks:
                coarse = pred["deep_supervision"][f"scale_{k}"][task]
                out[f"scale_{k}_{task}"] = self.loss_ft[task](upsampled(coarse, size), gt[task])
                total = total + self.loss_weights[task] * out[f"scale_{k}_{task}"]
        for task in self.tasks:
            out[task] = self.loss_ft[task](pred[task], gt[task])
            total = total + self.loss_weights[task] * out[task]
        out["total"] = total
        return out


class PADNetLoss(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        self.tasks = self.auxilary_tasks = list(tasks)
        self.loss_ft = losses(tasks)
        self.loss_weights = {task: 1.0 + i for i, task in enumerate(tasks)}

    def forward(self, pred: dict[str, Tensor], gt: dict[str, Tensor]) -> dict[str, Tensor]:
        size, out, total = gt[self.tasks[0]].shape[2:], {}, 0.0
        for task in self.auxilary_tasks:
            out[f"deepsup_{task}"] = self.loss_ft[task](upsampled(pred[f"initial_{task}"], size), gt[task])
            total = total + self.loss_weights[task] * out[f"deepsup_{task}"]
        for task in self.tasks:
            out[task] = self.loss_ft[task](pred[task], gt[task])
            total = total + self.loss_weights[task] * out[task]
        out["total"] = total
        return out


def labels(size: tuple[int, int], tasks: Sequence[str] = TASKS, images: int = 2) -> dict[str, Tensor]:
    """Labels (B, C, H, W) with ignored pixels, of normals in all channels."""
    generator = torch.Generator().manual_seed(1)

    def uniform(channels: int) -> Tensor:
        return torch.rand(images, channels, *size, generator=generator)

    normals = F.normalize(uniform(3) - 0.5, dim=1)
    every = {
        "semseg": (uniform(1) * OUTPUTS["semseg"]).floor(),
        "depth": 1 + 9 * uniform(1),
        "edge": (uniform(1) < 0.1).float(),
        "normals": normals,
    }
    ignored = uniform(1) < 0.2
    for task in ("semseg", "depth", "normals"):
        every[task] = every[task].masked_fill(ignored, IGNORED)
    return {task: every[task] for task in tasks}
