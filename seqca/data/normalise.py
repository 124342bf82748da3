"""Images in and out of the form that networks pretrained on ImageNet expect."""

from __future__ import annotations

import numpy as np
import torch

IMAGENET_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)


def _channels(values: tuple[float, float, float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None, None]


def normalise(image: np.ndarray | torch.Tensor) -> torch.Tensor:
    """(image / 255 - mean) / std, float32 (3, H, W).

    `image`: RGB uint8, a NumPy array (H, W, 3) or a tensor (3, H, W). Anything else raises TypeError (kind or
    dtype) or ValueError (shape).
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(f"image: got {image.dtype}, expected uint8")
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image: got an array of shape {image.shape}, expected (H, W, 3)")
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    elif not isinstance(image, torch.Tensor):
        raise TypeError(f"image: got {type(image).__name__}, expected a NumPy array or a tensor")
    if image.dtype != torch.uint8:
        raise TypeError(f"image: got {image.dtype}, expected uint8")
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image: got a tensor of shape {tuple(image.shape)}, expected (3, H, W)")
    return (image.to(torch.float32) / 255 - _channels(IMAGENET_MEAN, image)) / _channels(IMAGENET_STD, image)


def denormalise(image: torch.Tensor) -> np.ndarray:
    """The inverse of `normalise`: float (3, H, W) to RGB uint8 (H, W, 3), rounded, clipped to 0 … 255.

    NaN or a wrong shape raises ValueError, an integer image TypeError.
    """
    if not image.is_floating_point():
        raise TypeError(f"image: got {image.dtype}, expected a normalised floating-point image")
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image: got shape {tuple(image.shape)}, expected (3, H, W)")
    if image.isnan().any():
        raise ValueError("image: got NaN values, expected numbers")
    image = image.detach().to(torch.float32)
    levels = (image * _channels(IMAGENET_STD, image) + _channels(IMAGENET_MEAN, image)) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
