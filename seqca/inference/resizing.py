"""Large pictures: shrunk for the network, and the predictions brought back to their size."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from seqca.labels import LabelKind
from seqca.tasks import get_task

LARGE = 4_000_000
"""Pixels from which a prediction takes minutes on a processor: with four tasks a megapixel costs 1.1 TFLOP."""


def fitting_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Height and width with the longer side at most `max_side`, in the same proportion up to rounding."""
    longer = max(height, width)
    if max_side is None or longer <= max_side:
        return height, width
    return max(1, round(height * max_side / longer)), max(1, round(width * max_side / longer))


def shrink(image: np.ndarray, max_side: int | None) -> np.ndarray:
    """A picture (H, W, 3) uint8 at its fitting size, every pixel an average over those it stands for."""
    height, width = fitting_size(image.shape[0], image.shape[1], max_side)
    if (height, width) == image.shape[:2]:
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def enlarge(prediction: np.ndarray, task: str, size: tuple[int, int]) -> np.ndarray:
    """A decoded prediction, (H, W) or (C, H, W), at another size.

    Classes take the nearest pixel's. All else is interpolated bilinearly, and unit vectors then have length 1 again.
    """
    if prediction.shape[-2:] == size:
        return prediction
    if get_task(task).kind is LabelKind.CLASS:
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new)  # the pixel in which the centre of the new one lies
            for old, new in zip(prediction.shape[-2:], size, strict=True)
        )
        return prediction[..., rows[:, None], columns]
    maps = F.interpolate(torch.from_numpy(prediction)[None], size, mode="bilinear", align_corners=False)
    if get_task(task).labels.unit_norm:
        maps = F.normalize(maps, dim=1)
    return maps[0].numpy()
