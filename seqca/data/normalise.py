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
            raise TypeError(f"image must be uint8, got {image.dtype}")
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"a NumPy image must have shape (H, W, 3), got {image.shape}")
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    elif not isinstance(image, torch.Tensor):
        raise TypeError(f"image must be a NumPy array or a tensor, got {type(image).__name__}")
    if image.dtype != torch.uint8:
        raise TypeError(f"image must be uint8, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image tensor must have shape (3, H, W), got {tuple(image.shape)}")
    return (image.to(torch.float32) / 255 - _channels(IMAGENET_MEAN, image)) / _channels(IMAGENET_STD, image)


def denormalise(image: torch.Tensor) -> np.ndarray:
    """The inverse of `normalise`: float (3, H, W) to RGB uint8 (H, W, 3), rounded, clipped to 0 … 255.

    NaN or a wrong shape raises ValueError, an integer image TypeError.
    """
    if not image.is_floating_point():
        raise TypeError(f"image must be a normalised floating-point image, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must have shape (3, H, W), got {tuple(image.shape)}")
    if image.isnan().any():
        raise ValueError("image has NaN values")
    image = image.detach().to(torch.float32)
    levels = (image * _channels(IMAGENET_STD, image) + _channels(IMAGENET_MEAN, image)) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
