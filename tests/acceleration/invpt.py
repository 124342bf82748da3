"""Stand-ins for the modules of InvPT: small, our own, with the names that the replacements read."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

TASKS = ("semseg", "depth")
OUTPUTS = {"semseg": 5, "depth": 1, "3ddet": 2}
WIDTH, HEADS = 16, 2
GRID = 4
"""Tokens along each side of an image of 16 × 16."""

INTERPOLATE_MODE = "bilinear"


def tokens_of(x: Tensor) -> Tensor:
    return x.flatten(2).mT


def map_of(tokens: Tensor) -> Tensor:
    return tokens.mT.unflatten(2, (GRID, GRID))


class Attention(nn.Module):
    """Of a plain ViT."""

    def __init__(self, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.attn_drop, self.proj_drop = nn.Dropout(attn_drop), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = self.attn_drop((q @ k.mT * self.scale).softmax(-1))
        return self.proj_drop(self.proj((weights @ v).transpose(1, 2).flatten(2)))


class SelfAttention(nn.Module):
    """Of the decoder: adds the scores of the stage before to its own."""

    def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        scores = x @ x.mT + before
        return scores.softmax(-1) @ x, scores


class ViT(nn.Module):
    def __init__(self, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.attention = nn.ModuleList(Attention(attn_drop) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = tokens_of(self.patches(x))
        selected = []
        for layer in self.attention:
            x = x + layer(x)
            selected.append(x)
        return x, selected


class Decoder(nn.Module):
    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.features = nn.ModuleDict({task: nn.Conv2d(WIDTH, WIDTH, 1) for task in tasks})
        self.early = nn.ModuleDict({task: nn.Conv2d(WIDTH, OUTPUTS[task], 1) for task in tasks})

    def forward(self, selected: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        x = map_of(selected[-1])
        features = {task: layer(x) for task, layer in self.features.items()}
        return features, {task: layer(features[task]) for task, layer in self.early.items()}


class TransformerNet(nn.Module):
    def __init__(self, tasks: Sequence[str] = TASKS, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.backbone, self.multi_task_decoder = ViT(attn_drop), Decoder(tasks)
        self.heads = nn.ModuleDict({task: nn.Conv2d(WIDTH, OUTPUTS[task], 1) for task in tasks})

    def forward(self, x: Tensor) -> dict:
        size = x.shape[2:]
        features, early = self.multi_task_decoder(self.backbone(x)[1])
        out: dict = {
            task: F.interpolate(self.heads[task](features[task]), size, mode=INTERPOLATE_MODE) for task in self.tasks
        }
        out["inter_preds"] = {task: F.interpolate(y, size, mode=INTERPOLATE_MODE) for task, y in early.items()}
        return out
