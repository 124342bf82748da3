"""Stand-ins for the modules of TaskPrompter: small, our own, with the names that the replacements read."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import atrc
from .invpt import GRID, HEADS, OUTPUTS, TASKS, WIDTH, map_of, tokens_of

INTERPOLATE_MODE = "bilinear"


class Attention(nn.Module):
    """Gives its scores too."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)
        self.pixel_no = GRID * GRID
        self.token_trans, self.token_trans1 = nn.Linear(WIDTH, self.pixel_no), nn.Linear(self.pixel_no, WIDTH)

    def forward(self, x: Tensor, task_prompts: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        joined = torch.cat([task_prompts, x], 1)
        q, k, v = self.qkv(joined).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT
        weights = self.attn_drop((scores * self.scale).softmax(-1))
        y = self.proj_drop(self.proj((weights @ v).transpose(1, 2).flatten(2)))
        of_channels = self.token_trans(task_prompts)
        prompts = y[:, : -self.pixel_no] + self.token_trans1(of_channels)
        return y[:, -self.pixel_no :], [scores, of_channels @ x], prompts


class WindowAttention(nn.Module):
    """Of the Swin variant; gives its scores too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = x @ x.mT
        return scores.softmax(-1) @ x, scores


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.drop_path = Attention(), nn.Identity()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())

    def forward(self, x: Tensor, task_prompts: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        of_x, scores, of_prompts = self.attn(self.norm1(x), self.norm1(task_prompts))
        own = x + self.drop_path(of_x)
        own = own + self.drop_path(self.mlp(self.norm2(own)))
        task_prompts = task_prompts + self.drop_path(of_prompts)
        return own, scores, task_prompts + self.drop_path(self.mlp(self.norm2(task_prompts)))


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        return tokens_of(self.proj(x))


class TaskPrompter(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS, depth: int = 5, select_list: Sequence[int] = (2,)) -> None:
        super().__init__()
        self.p = SimpleNamespace(TASKS=SimpleNamespace(NAMES=list(tasks)))
        self.select_list, self.num_layers = select_list, len(select_list) + 1
        self.patch_embed, self.pos_drop, self.norm = Patches(), nn.Dropout(0.0), nn.LayerNorm(WIDTH)
        self.pos_embed = nn.Parameter(torch.randn(1, GRID * GRID + 1, WIDTH))
        self.task_prompts = nn.Parameter(torch.randn(len(tasks), WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.fea_fuse = nn.ModuleList(
            nn.ModuleDict({task: nn.Conv2d(WIDTH + HEADS, WIDTH, 1) for task in tasks}) for _ in range(self.num_layers)
        )

    def cal_task_feature(
        self, x: Tensor, scores: list[Tensor], layer: int, info: dict
    ) -> tuple[dict[str, Tensor], dict]:
        features = {}
        for i, (task, fuse) in enumerate(self.fea_fuse[layer].items()):
            own = map_of(scores[0][:, :, i, len(self.p.TASKS.NAMES) :].mT)
            features[task] = fuse(torch.cat([map_of(x), own + scores[1].mean()], 1))
        return features, info | {layer: len(features)}

    def forward(self, x: Tensor) -> tuple[dict[str, Any], dict]:
        x = self.pos_drop(self.patch_embed(x) + self.pos_embed[:, 1:])
        prompts = self.task_prompts.expand(len(x), -1, -1)
        features, info = dict.fromkeys(self.p.TASKS.NAMES, 0.0), {}
        read = 0
        for i, block in enumerate(self.blocks):
            x, scores, prompts = block(x, prompts)
            if i + 1 in self.select_list:
                own, info = self.cal_task_feature(x, scores, read, info)
                features = {task: features[task] + own[task] for task in features}
                read += 1
        own, info = self.cal_task_feature(self.norm(x), scores, self.num_layers - 1, info)
        features = {task: features[task] + own[task] for task in features}
        return {task: F.interpolate(y, scale_factor=4, mode=INTERPOLATE_MODE) for task, y in features.items()}, info


class L1Loss(nn.Module):
    """Ignores a value that is 0 if no other is given, or nothing."""

    def __init__(self, normalize: bool = False, ignore_index: float = 0, ignore_invalid_area: bool = True) -> None:
        super().__init__()
        self.normalize, self.ignore_invalid_area = normalize, ignore_invalid_area
        if ignore_invalid_area:
            self.ignore_index = ignore_index

    def forward(self, out: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        valid = torch.ones_like(label[:, :1], dtype=torch.bool)
        if self.ignore_invalid_area:
            valid = (label != self.ignore_index).all(1, keepdim=True)
        z = F.normalize(out, dim=1) if self.normalize else out
        total = F.l1_loss(z.masked_select(valid), label.masked_select(valid), reduction="sum")
        return total / max(int(valid.sum()), 1)


class CrossEntropyLoss(atrc.CrossEntropyLoss):
    """float32 whatever the prediction is."""

    def forward(self, out: Tensor, label: Tensor, reduction: str = "mean") -> Tensor:
        loss = super().forward(out, label, reduction)
        return loss.float() if reduction == "mean" else loss


class MultiTaskLoss(nn.Module):
    def __init__(self, losses: dict[str, nn.Module]) -> None:
        super().__init__()
        self.loss_ft = nn.ModuleDict(losses)

    def forward(self, output: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = {task: loss(output[task], labels[task]) for task, loss in self.loss_ft.items()}
        return losses | {"total": torch.stack([*losses.values()]).sum()}


class TaskPrompterWrapper(nn.Module):
    def __init__(
        self,
        tasks: Sequence[str] = TASKS,
        target_size: tuple[int, int] | None = None,
        select_list: Sequence[int] = (2,),
    ) -> None:
        super().__init__()
        self.tasks, self.target_size = list(tasks), target_size
        self.backbone = TaskPrompter(tasks, select_list=select_list)
        self.heads = nn.ModuleDict({task: nn.Conv2d(WIDTH, OUTPUTS[task], 1) for task in tasks})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = self.target_size or x.shape[2:]
        features, _ = self.backbone(x)
        out = {}
        for task in self.tasks:
            y = self.heads[task](features[task])
            out[task] = y if task == "3ddet" else F.interpolate(y, size, mode=INTERPOLATE_MODE)
        return out
