"""Stand-ins for the modules of ATRC: small, our own, with the names and attributes that the replacements read."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TASKS = ("semseg", "depth", "normals", "edge")
FINAL = {"semseg": 5, "depth": 1, "normals": 3, "edge": 1}
AUXILIARY = {"semseg": 5, "depth": 7, "normals": 6, "edge": 2}
CHANNELS = (4, 6, 8)
WIDTH, ATTENDED = 6, 4
IGNORED = 255


def upsampled(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class ConvBNReLU(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        activation: type[nn.Module] | None = nn.ReLU,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.use_norm, self.use_activation = True, activation is not None
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, affine=affine)
        if activation is not None:
            self.activation = activation(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.bn(self.conv(x))
        return self.activation(normalised) if self.use_activation else normalised


class GlobalContextAttentionBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, last_affine: bool = True) -> None:
        super().__init__()
        self.eps = 1e-12

        def features() -> nn.Sequential:
            return nn.Sequential(
                ConvBNReLU(inputs, outputs), ConvBNReLU(outputs, outputs, activation=None), nn.Softplus()
            )

        self.query_project, self.key_project = features(), features()
        self.value_project = ConvBNReLU(inputs, outputs, affine=last_affine)

    def forward(self, target_task_feats: Tensor, source_task_feats: Tensor, **kwargs: Any) -> Tensor:
        k = self.key_project(source_task_feats).flatten(2)
        v = self.value_project(source_task_feats).flatten(2)
        queries = self.query_project(target_task_feats)
        q = queries.flatten(2)
        attended = (v @ k.mT @ q) / (k.sum(2)[:, None] @ q).clamp(min=self.eps)
        return attended.view(queries.shape)


def _darkened(auxiliary: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """Probabilities over pixels. Written into, in place, where the image is dark, as ignored pixels are there."""
    for x in auxiliary.values():
        dark = upsampled(image, x.shape[2:]).mean(1, keepdim=True) < -0.5
        x[dark.expand_as(x)] = -5.0
    return {task: x.flatten(2).softmax(2) for task, x in auxiliary.items()}


utils_heads = SimpleNamespace(spatial_normalize_pred=_darkened)


class LabelContextAttentionBlock(nn.Module):
    """What pixels gather from regions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Conv1d(inputs, outputs, 1)

    def forward(
        self,
        target_task_feats: Tensor,
        source_task_feats: Tensor,
        target_aux_prob: Tensor | None,
        source_aux_prob: Tensor | None,
    ) -> Tensor:
        regions = source_task_feats.flatten(2) @ source_aux_prob.mT
        weights = (target_task_feats.flatten(2).mT @ regions).softmax(2)
        return (self.layer(regions) @ weights.mT).unflatten(2, target_task_feats.shape[2:])


class LocalContextAttentionBlock(nn.Module):
    """What pixels gather from their neighbours."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(inputs, outputs, 1)

    def forward(self, target_task_feats: Tensor, source_task_feats: Tensor, **kwargs: Any) -> Tensor:
        neighbours = F.unfold(source_task_feats, 3, padding=1).unflatten(1, (source_task_feats.shape[1], 9))
        weights = (target_task_feats.flatten(2)[:, :, None] * neighbours).sum(1, keepdim=True).softmax(2)
        return self.layer((weights * neighbours).sum(2).view(target_task_feats.shape))


class ATRCModule(nn.Module):
    def __init__(self, tasks: Sequence[str], genotype: dict[str, dict[str, int]]) -> None:
        super().__init__()
        self.tasks, self.atrc_genotype = list(tasks), genotype
        kinds = {1: GlobalContextAttentionBlock, 2: LocalContextAttentionBlock, 4: LabelContextAttentionBlock}
        self.cp_blocks, self.out_proj, self.bottleneck = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for target in tasks:
            chosen = {source: kind for source, kind in genotype[target].items() if kind}
            self.cp_blocks[target] = nn.ModuleDict({s: kinds[kind](WIDTH, ATTENDED) for s, kind in chosen.items()})
            if chosen:
                self.out_proj[target] = ConvBNReLU(ATTENDED * len(chosen), WIDTH, activation=None)
            self.bottleneck[target] = ConvBNReLU(2 * WIDTH if chosen else WIDTH, WIDTH)

    def forward(
        self, task_specific_feats: dict[str, Tensor], aux_pred: dict[str, Tensor], image: Tensor
    ) -> dict[str, Tensor]:
        probabilities = utils_heads.spatial_normalize_pred(aux_pred, image)
        related = {}
        for target, sources in self.cp_blocks.items():
            own = task_specific_feats[target]
            said = [
                block(
                    target_task_feats=own,
                    source_task_feats=task_specific_feats[source],
                    target_aux_prob=probabilities.get(target),
                    source_aux_prob=probabilities.get(source),
                )
                for source, block in sources.items()
            ]
            parts = [own, self.out_proj[target](torch.cat(said, 1))] if said else [own]
            related[target] = self.bottleneck[target](torch.cat(parts, 1))
        return related


class ATRCSearchModule(nn.Module):
    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({task: GlobalContextAttentionBlock(WIDTH, WIDTH, False) for task in tasks})

    def forward(
        self,
        task_specific_feats: dict[str, Tensor],
        aux_pred: dict[str, Tensor],
        image: Tensor,
        gumbel_temp: float,
        mode: str,
    ) -> dict[str, Tensor]:
        utils_heads.spatial_normalize_pred(aux_pred, image)
        return {
            task: gumbel_temp * block(x, x)
            for (task, block), x in zip(self.blocks.items(), task_specific_feats.values(), strict=True)
        }


class _Head(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        self.tasks, self.in_index = list(tasks), [0, 1, 2]
        total = sum(CHANNELS)
        self.bottleneck = nn.ModuleDict({task: ConvBNReLU(total, WIDTH, 3) for task in tasks})
        self.final_logits = nn.ModuleDict({task: nn.Conv2d(WIDTH, FINAL[task], 1) for task in tasks})

    def _transform_inputs(self, inputs: list[Tensor]) -> Tensor:
        chosen = [inputs[i] for i in self.in_index]
        return torch.cat([upsampled(x, chosen[0].shape[2:]) for x in chosen], 1)


class FCNHead(_Head):
    def forward(self, inp: list[Tensor], inp_shape: Sequence[int], **kwargs: Any) -> dict:
        joined = self._transform_inputs(inp)
        predictions = {task: self.final_logits[task](self.bottleneck[task](joined)) for task in self.tasks}
        return {"final": {task: upsampled(x, inp_shape) for task, x in predictions.items()}}


class _AuxiliaryHead(_Head):
    def __init__(self, tasks: Sequence[str], auxiliary: Sequence[str], module: nn.Module) -> None:
        super().__init__(tasks)
        total = sum(CHANNELS)
        self.aux_conv = nn.ModuleDict({task: ConvBNReLU(total, total) for task in auxiliary})
        self.aux_logits = nn.ModuleDict({task: nn.Conv2d(total, AUXILIARY[task], 1) for task in auxiliary})
        self.atrc_module = module


class RelationalContextHead(_AuxiliaryHead):
    """Where no genotype is given, all tasks ask all others."""

    def __init__(
        self,
        tasks: Sequence[str] = TASKS,
        auxiliary: Sequence[str] = TASKS,
        genotype: dict[str, dict[str, int]] | None = None,
    ) -> None:
        every = {target: {source: int(source != target) for source in tasks} for target in tasks}
        super().__init__(tasks, auxiliary, ATRCModule(tasks, genotype or every))

    def forward(self, inp: list[Tensor], inp_shape: Sequence[int], image: Tensor, **kwargs: Any) -> dict:
        joined = self._transform_inputs(inp)
        features = {task: self.bottleneck[task](joined) for task in self.tasks}
        early = {task: logits(self.aux_conv[task](joined.detach())) for task, logits in self.aux_logits.items()}
        related = self.atrc_module(features, early, image)
        final = {task: upsampled(self.final_logits[task](related[task]), inp_shape) for task in self.tasks}
        return {"final": final, "aux": {task: upsampled(x, inp_shape) for task, x in early.items()}}


class RelationalContextSearchHead(_AuxiliaryHead):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__(tasks, tasks, ATRCSearchModule(tasks))

    def forward(
        self, inp: list[Tensor], inp_shape: Sequence[int], image: Tensor, gumbel_temp: float, mode: str = "gumbel"
    ) -> dict:
        joined = self._transform_inputs(inp)
        features = {task: self.bottleneck[task](joined) for task in self.tasks}
        early = {task: logits(self.aux_conv[task](joined.detach())) for task, logits in self.aux_logits.items()}
        related = self.atrc_module(features, early, image, gumbel_temp=gumbel_temp, mode=mode)
        final = {task: upsampled(self.final_logits[task](related[task]), inp_shape) for task in self.tasks}
        return {"final": final, "aux": {task: upsampled(x, inp_shape) for task, x in early.items()}}


class Network(nn.Module):
    """Maps at strides 2, 4 and 8, and a head."""

    def __init__(self, head: nn.Module, **search: Any) -> None:
        super().__init__()
        inputs = (3, *CHANNELS)
        self.layers = nn.ModuleList(nn.Conv2d(inputs[k], inputs[k + 1], 3, stride=2, padding=1) for k in range(3))
        self.head, self.search = head, search

    def forward(self, image: Tensor) -> dict:
        x, maps = image, []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return self.head(maps, image.shape[2:], image=image, **self.search)


class CrossEntropyLoss(nn.Module):
    def __init__(self, class_weight: Tensor | None = None, balanced: bool = False) -> None:
        super().__init__()
        self.ignore_index, self.balanced = IGNORED, balanced
        self.register_buffer("class_weight", class_weight)

    def forward(self, out: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        classes = label.squeeze(1).long()
        valid = classes != self.ignore_index
        weight = self.class_weight
        if self.balanced:
            chosen = classes[valid]
            assert chosen.max() < 2
            share = (1.0 - chosen).sum() / chosen.numel()
            weight = torch.stack([1 - share, share]).to(out.dtype)
        losses = F.cross_entropy(out, classes, weight, ignore_index=self.ignore_index, reduction="none")
        return losses.sum() / max(int(valid.sum()), 1) if reduction == "mean" else losses


class BalancedBinaryCrossEntropyLoss(nn.Module):
    def __init__(self, pos_weight: float | None = None) -> None:
        super().__init__()
        self.pos_weight, self.ignore_index = pos_weight, IGNORED

    def forward(self, output: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        valid = label != self.ignore_index
        x, y = output[valid], label[valid]
        w = (1.0 - y).sum() / y.numel() if self.pos_weight is None else torch.as_tensor(self.pos_weight)
        scale = 1 / (1 - w)
        loss = F.binary_cross_entropy_with_logits(x, y, pos_weight=w * scale, reduction=reduction)
        return loss / scale


class L1Loss(nn.Module):
    def __init__(self, normalize: bool = False) -> None:
        super().__init__()
        self.normalize, self.ignore_index = normalize, IGNORED

    def forward(self, out: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        valid = (label != self.ignore_index).all(1, keepdim=True)
        z = F.normalize(out, dim=1) if self.normalize else out
        total = F.l1_loss(z.masked_select(valid), label.masked_select(valid), reduction="sum")
        return total / max(int(valid.sum()), 1)


class ClusterCrossEntropyLoss(nn.Module):
    def __init__(self, centroids: Tensor) -> None:
        super().__init__()
        self.ignore_index = IGNORED
        self.register_buffer("centroids", centroids)

    def forward(self, out: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        nearest = torch.cdist(label.flatten(2).mT, self.centroids).argmin(2).view(len(label), *label.shape[2:])
        nearest[(label == self.ignore_index).any(1)] = self.ignore_index
        return F.cross_entropy(out, nearest, ignore_index=self.ignore_index, reduction=reduction)


class BinningCrossEntropyLoss(nn.Module):
    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins, self.ignore_index = bins, IGNORED

    def _create_disc_label(self, label: Tensor) -> Tensor:
        return (label / 10 * self.bins).clamp(0, self.bins - 1).long()

    def forward(self, out: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        classes = self._create_disc_label(label)
        classes[label == self.ignore_index] = self.ignore_index
        return F.cross_entropy(out, classes.squeeze(1), ignore_index=self.ignore_index, reduction=reduction)


def losses(tasks: Sequence[str] = TASKS) -> nn.ModuleDict:
    centroids = F.normalize(torch.randn(AUXILIARY["normals"], 3, generator=torch.Generator().manual_seed(0)), dim=1)
    every = {
        "semseg": {"final": CrossEntropyLoss(), "aux": CrossEntropyLoss()},
        "depth": {"final": L1Loss(), "aux": BinningCrossEntropyLoss(AUXILIARY["depth"])},
        "normals": {"final": L1Loss(normalize=True), "aux": ClusterCrossEntropyLoss(centroids)},
        "edge": {
            "final": BalancedBinaryCrossEntropyLoss(0.95),
            "aux": CrossEntropyLoss(torch.tensor([1 - 0.95, 0.95])),
        },
    }
    return nn.ModuleDict({task: nn.ModuleDict(every[task]) for task in tasks})


class WeightedSumLoss(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        self.loss_dict = losses(tasks)

    def forward(self, out: dict, lab: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        parts = {
            f"{task}_{name}": self.loss_dict[task][name](x, lab[task])
            for name, predictions in out.items()
            for task, x in predictions.items()
        }
        return torch.stack(list(parts.values())).sum(), {name: x.detach() for name, x in parts.items()}


def labels(size: tuple[int, int], tasks: Sequence[str] = TASKS, images: int = 2) -> dict[str, Tensor]:
    """Labels (B, C, H, W) with ignored pixels; a normal is ignored where one of its channels is."""
    generator = torch.Generator().manual_seed(1)

    def uniform(channels: int) -> Tensor:
        return torch.rand(images, channels, *size, generator=generator)

    every = {
        "semseg": (uniform(1) * FINAL["semseg"]).floor(),
        "depth": 1 + 8 * uniform(1),
        "normals": F.normalize(uniform(3) - 0.5, dim=1),
        "edge": (uniform(1) < 0.1).float(),
    }
    ignored = uniform(3) < 0.1
    return {task: every[task].masked_fill(ignored[:, : every[task].shape[1]], IGNORED) for task in tasks}
