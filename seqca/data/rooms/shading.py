"""The colour of each pixel: textures, lamps and sun with shadows, soft ambient light, the camera's response."""

from __future__ import annotations

import numpy as np

from seqca.data.rooms.random_stream import gaussian_noise
from seqca.data.rooms.scene import Scene
from seqca.data.rooms.shadows import find_casters, lamp_light, sun_light
from seqca.data.rooms.textures import colour_at
from seqca.data.rooms.visibility import Hits

_OFFSET = 2e-3  # metres that shadow rays start above their surface
_INTERLEAVE = np.array([(i % 3 - 1, i // 3 - 1) for i in (0, 4, 8, 5, 6, 1, 7, 2, 3)], dtype=np.float32)


def surface_colour(scene: Scene, hits: Hits, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """(3, N) albedo and (N,) emission; `pixel` is the width of a pixel at depth 1."""
    walls = len(scene.materials)
    of_solid = np.array([walls, *(p.material for p in scene.primitives)], dtype=np.int16)
    material = of_solid[hits.solid]
    room = hits.solid == 0
    material[room & (hits.face == 5)] = walls + 1  # the room's normals point inwards: +z is the floor
    material[room & (hits.face == 4)] = walls + 2
    materials = (*scene.materials, *scene.surfaces)

    axis = hits.face >> 1
    u = np.where(axis == 0, hits.local[1], hits.local[0])
    v = np.where(axis == 2, hits.local[1], hits.local[2])
    curved = np.flatnonzero(axis == 3)
    radius = np.array([1.0, *(p.half[0] for p in scene.primitives)], dtype=np.float32)[hits.solid[curved]]
    u[curved] = radius * np.arctan2(hits.local[1, curved], hits.local[0, curved])
    half = np.array([scene.size, *(p.half for p in scene.primitives)], dtype=np.float32)
    half_u, half_v = half[hits.solid, (axis == 0) * 1], half[hits.solid, np.where(axis == 2, 1, 2)]
    grain = np.array([m.grain for m in materials])[material] & (half_v > half_u)
    u, v = np.where(grain, v, u), np.where(grain, u, v)

    facing = np.abs(sum(n * r for n, r in zip(hits.normal, hits.rays, strict=True)))
    blur = hits.depth * pixel / np.maximum(facing, 0.1)
    emission = np.array([m.emission for m in materials], dtype=np.float32)[material]
    return colour_at(materials, material, u, v, blur), emission


def _soften(values: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Mean over the 3x3 neighbours (H, W) that belong to the same solid, which ends the interleaving."""
    height, width = values.shape
    padded, owner = np.pad(values, 1), np.pad(solid, 1, constant_values=-1)
    total, count = np.zeros_like(values), np.zeros_like(values)
    for dy in range(3):
        for dx in range(3):
            same = owner[dy : dy + height, dx : dx + width] == solid
            total += same * padded[dy : dy + height, dx : dx + width]
            count += same
    return total / count


def shade(scene: Scene, hits: Hits, height: int, width: int) -> np.ndarray:
    """The image, (H, W, 3) uint8."""
    eye = np.array(scene.camera.eye, dtype=np.float32)[:, None]
    point = eye + hits.depth * hits.rays + _OFFSET * hits.normal
    albedo, emission = surface_colour(scene, hits, 1.0 / scene.camera.focal(height, width))
    casters = find_casters(scene)

    cell = (np.arange(height)[:, None] % 3 * 3 + np.arange(width)[None, :] % 3).ravel()
    jitter = np.stack([_INTERLEAVE[cell, 0], _INTERLEAVE[cell, 1], 0.5 * _INTERLEAVE[cell, 0] * _INTERLEAVE[cell, 1]])
    incoming = _ambient(scene, point, hits.normal)
    solid = hits.solid.reshape(height, width)
    for light in scene.lights:
        share = lamp_light(light, casters, point, hits.normal, jitter)
        share = _soften(share.reshape(height, width), solid).ravel()
        incoming += np.array(light.colour, dtype=np.float32)[:, None] * share
    if scene.sun is not None:
        share = sun_light(scene.sun, casters, point, hits.normal)
        incoming += np.array(scene.sun.colour, dtype=np.float32)[:, None] * share
    radiance = albedo * (incoming + 1.3 * emission)
    return develop(scene, radiance.reshape(3, height, width))


def _ambient(scene: Scene, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(3, N) light from all around: brighter from above, darker in the corners and near the floor."""
    corner = np.ones_like(point[0])
    for i in range(3):
        gap = np.minimum(point[i], scene.size[i] - point[i])
        corner *= 1.0 - 0.3 / (1.0 + 6.0 * np.maximum(gap, 0.0)) * (1.0 - np.abs(normal[i]))
    level = corner * (0.85 + 0.15 * normal[2])
    return np.array(scene.ambient, dtype=np.float32)[:, None] * level


def develop(scene: Scene, radiance: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 from linear radiance (3, H, W): exposure, tone curve, lens blur, noise."""
    light = radiance * np.float32(0.42 * scene.exposure / max(float(radiance.mean()), 1e-6))
    light = light * (1.0 + light * 0.08) / (1.0 + light * 0.72)
    for axis in (1, 2):
        light = _blur(light, axis)
    display = np.sqrt(np.maximum(light, 0.0))
    noise = gaussian_noise(display.shape, *scene.noise)
    display = display + np.float32(scene.noise_level) * noise
    return (np.clip(display, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 0)


def _blur(image: np.ndarray, axis: int) -> np.ndarray:
    """The lens: weights 0.1, 0.8, 0.1 along an axis, the border repeated."""
    image = np.moveaxis(image, axis, 0)
    padded = np.concatenate([image[:1], image, image[-1:]])
    return np.moveaxis(0.8 * image + 0.1 * (padded[:-2] + padded[2:]), 0, axis)
