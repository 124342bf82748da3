"""Predictions and labels as RGB pictures, in NumPy alone.

Every function takes one prediction or label without batch dimension, as `seqca.tasks` decodes it, and returns
(H, W, 3) uint8. Ignored pixels are black.
"""

from functools import lru_cache

import numpy as np

# Every fifteenth of the 256 colours of "plasma" (van der Walt and Smith, CC0), from dark blue to yellow:
# perceptually uniform, and rising in lightness.
_PLASMA = np.array([
    [13, 8, 135], [47, 5, 150], [73, 3, 160], [97, 0, 167], [120, 1, 168], [142, 12, 164],
    [162, 29, 154], [180, 46, 141], [196, 62, 127], [210, 79, 113], [222, 97, 100], [233, 114, 87],
    [243, 133, 75], [249, 154, 62], [253, 175, 49], [253, 198, 39], [248, 223, 37], [240, 249, 33],
])  # fmt: skip


@lru_cache(maxsize=1)
def palette() -> np.ndarray:
    """Colours of class indices, (256, 3) uint8: entry 0 a neutral grey, entry 255 (ignored) black.

    Each entry is the colour that lies farthest in CIELAB from all entries before it, among those of a grid over
    sRGB that are neither very dark, pale nor glaring. So any number of classes gets about as distinct a set as
    there is, and a class keeps its colour whatever the number of classes.
    """
    axis = np.linspace(0, 255, 24).round()
    candidates = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    lab = _to_lab(candidates)
    moderate = (lab[:, 0] > 32) & (lab[:, 0] < 90) & (np.linalg.norm(lab[:, 1:], axis=1) < 68)
    candidates, lab = candidates[moderate], lab[moderate]
    colours = np.zeros((256, 3), np.uint8)
    colours[0] = 150
    nearest = np.linalg.norm(lab - _to_lab(colours[:1].astype(float)), axis=1)
    for entry in range(1, 255):
        farthest = int(nearest.argmax())
        colours[entry] = candidates[farthest]
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[farthest], axis=1))
    colours.flags.writeable = False
    return colours


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (N, 3) in 0 … 255 -> CIELAB (N, 3), white point D65 (IEC 61966-2-1)."""
    scaled = rgb / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    ratio = linear @ to_xyz.T / to_xyz.sum(1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def colour_classes(classes: np.ndarray) -> np.ndarray:
    """Class indices (H, W), 0 to 254, 255 for ignored pixels, in the colours of `palette`."""
    if classes.ndim != 2 or classes.dtype.kind not in "iu":
        raise ValueError(f"classes: got {classes.dtype} {classes.shape}, expected an integer array (H, W)")
    if classes.size and (classes.min() < 0 or classes.max() > 255):
        raise ValueError(f"classes: got {classes.min()} to {classes.max()}, expected values in [0, 255]")
    return palette()[classes]


def colour_depth(depth: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Depth (1, H, W) in metres, near yellow, far blue; 255 is ignored.

    Args:
        depth: the depth map.
        low: depth of the near end of the scale, the smallest of the map where it is None; clipped to.
        high: depth of the far end, likewise.
    """
    depth = _channels("depth", depth, 1)[0]
    valid = np.isfinite(depth) & (depth != 255)
    present = depth[valid] if valid.any() else np.zeros(1, np.float32)
    low = float(present.min()) if low is None else low
    high = float(present.max()) if high is None else high
    nearness = np.clip((high - depth) / max(high - low, 1e-6), 0, 1)
    steps = np.linspace(0, 1, len(_PLASMA))
    picture = np.stack([np.interp(nearness, steps, _PLASMA[:, channel]) for channel in range(3)], -1)
    return np.where(valid[..., None], picture.round(), 0).astype(np.uint8)


def colour_normals(normals: np.ndarray) -> np.ndarray:
    """Unit normals (3, H, W) in camera coordinates (x right, y down, z into the scene); 255 is ignored.

    The colours of normal maps in graphics, whose axes point right, up and to the viewer: (1 + (x, −y, −z))/2.
    A wall that faces the camera is light blue, a floor green.
    """
    normals = _channels("normals", normals, 3)
    valid = (normals != 255).all(0)
    picture = (1 + normals * np.array([1, -1, -1])[:, None, None]) / 2 * 255
    return np.where(valid, picture.clip(0, 255).round(), 0).transpose(1, 2, 0).astype(np.uint8)


def colour_probability(probability: np.ndarray) -> np.ndarray:
    """Probabilities or labels (1, H, W) in [0, 1] as grey, 1 white; 255 is ignored."""
    probability = _channels("probability", probability, 1)[0]
    grey = np.where(probability == 255, 0, probability.clip(0, 1) * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def _channels(argument: str, array: np.ndarray, channels: int) -> np.ndarray:
    if array.ndim != 3 or array.shape[0] != channels or array.dtype.kind != "f":
        raise ValueError(
            f"{argument}: got {array.dtype} {array.shape}, expected a floating-point array ({channels}, H, W)"
        )
    return array.astype(np.float32)
