"""Labels and predictions of all tasks for the tests of this folder."""

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = {"semseg": 5, "depth": 1, "normals": 3, "edge": 1, "sal": 1, "human_parts": 7}


def labels_and_predictions(images: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Labels with ignored pixels where a task has any, and noisy decoded predictions of the same size."""
    generator = torch.Generator().manual_seed(seed)

    def noise(channels: int) -> Tensor:
        return torch.randn(images, channels, 12, 16, generator=generator)

    labels = {
        "semseg": (noise(5) + torch.tensor([1.0, 0.5, 0, 0, -1])[:, None, None]).argmax(1),
        "depth": (1 + 0.4 * noise(1)).exp(),
        "normals": F.normalize(torch.tensor([0.0, 0.4, -1])[:, None, None] + 0.8 * noise(3), dim=1),
        "edge": (noise(1) > 1.2).float(),
        "sal": (noise(1) > torch.linspace(-1, 3, images)[:, None, None, None]).float(),
        "human_parts": (noise(7) + torch.tensor([2.0, 0, 0, 0, 0, 0, 0])[:, None, None]).argmax(1),
    }
    predictions = {
        "semseg": (F.one_hot(labels["semseg"], 5).movedim(-1, 1) + noise(5)).argmax(1),
        "depth": (labels["depth"] + 0.3 * noise(1)).clamp(min=0),
        "normals": F.normalize(labels["normals"] + 0.5 * noise(3), dim=1),
        "edge": (2 * labels["edge"] - 1 + noise(1)).sigmoid(),
        "sal": (2 * labels["sal"] - 1 + noise(1)).sigmoid(),
        "human_parts": (F.one_hot(labels["human_parts"], 7).movedim(-1, 1) + noise(7)).argmax(1),
    }
    for name in ("semseg", "human_parts", "depth", "normals"):
        labels[name][..., :2] = 255
    labels["human_parts"][0] = 0
    return labels, predictions
