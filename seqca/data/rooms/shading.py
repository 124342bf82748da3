"""The colour of each pixel: textures, lamps and sun with shadows, soft ambient light, the camera's response."""

from __future__ import annotations

import numpy as np

from seqca.data.rooms.dice import gaussian_noise
from seqca.data.rooms.primitives import Primitive, enter, reciprocal, to_frame
from seqca.data.rooms.scene import Light, Scene, Sun
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
    albedo = np.empty((3, hits.depth.size), dtype=np.float32)
    order = np.argsort(material, kind="stable")
    ends = np.cumsum(np.bincount(material, minlength=len(materials)))
    for index, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if start < end:
            at = order[start:end]
            albedo[:, at] = colour_at(materials[index], u[at], v[at], blur[at])
    return albedo, np.array([m.emission for m in materials], dtype=np.float32)[material]


def _hidden(casters: list[Primitive], candidates: np.ndarray, start: np.ndarray, to: np.ndarray) -> np.ndarray:
    """(M,) bool: whether a caster meets the segment from start to start + to, both (3, M).

    `candidates` (C, M) says which segments come near which caster at all.
    """
    hidden = np.zeros(start.shape[1], dtype=bool)
    for caster, candidate in zip(casters, candidates, strict=True):
        at = np.flatnonzero(candidate & ~hidden)
        if not at.size:
            continue
        x, y, z = (start[i, at] - caster.centre[i] for i in range(3))
        dx, dy, dz = to[:, at]
        origin = (*to_frame(caster.yaw, x, y), z)
        direction = (*to_frame(caster.yaw, dx, dy), dz)
        entry = enter(caster, origin, direction, tuple(map(reciprocal, direction)))
        hidden[at] = (entry > 0.0) & (entry < 1.0)
    return hidden


def _balls(casters: list[Primitive]) -> tuple[np.ndarray, np.ndarray]:
    """Centres (C, 3) and radii (C,) of balls that hold the casters, a little larger than need be."""
    centre = np.array([c.centre for c in casters], dtype=np.float32).reshape(-1, 3)
    half = np.array([c.bounding_half() for c in casters], dtype=np.float32).reshape(-1, 3)
    return centre, np.sqrt((half * half).sum(axis=1)) + np.float32(0.01)


def lamp_light(
    light: Light, casters: list[Primitive], point: np.ndarray, normal: np.ndarray, jitter: np.ndarray
) -> np.ndarray:
    """(N,) share of the light's strength that arrives: cosine, distance, and hidden or not.

    `jitter` (3, N) in units of the light's radius moves the light from pixel to pixel, for soft shadows.
    """
    position = np.array(light.position, dtype=np.float32)[:, None]
    to = position - point
    squared = to[0] * to[0] + to[1] * to[1] + to[2] * to[2]
    distance = np.sqrt(squared)
    cosine = (normal[0] * to[0] + normal[1] * to[1] + normal[2] * to[2]) / distance
    lit = np.flatnonzero(cosine > 0.0)
    arriving = np.zeros_like(cosine)
    centre, radius = _balls(casters)
    offset = centre - position.T
    apart = np.sqrt((offset * offset).sum(axis=1))
    radius = radius + light.radius
    inside = apart <= radius
    sine = np.minimum(radius / np.maximum(apart, 1e-6), 1.0)
    widest = np.where(inside, -2.0, np.sqrt(1.0 - sine * sine) - 1e-3)
    axis = offset / np.maximum(apart, 1e-6)[:, None]
    away = -to[:, lit] / distance[lit]
    candidates = (axis @ away >= widest[:, None]) & (distance[lit] >= (apart - radius)[:, None])
    target = to[:, lit] + light.radius * jitter[:, lit]
    hidden = _hidden(casters, candidates, point[:, lit], target)
    reach = np.where(hidden, 0.0, cosine[lit] / (0.5 + 0.35 * squared[lit]))
    arriving[lit] = reach
    return arriving


def sun_light(sun: Sun, casters: list[Primitive], point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(N,) share of the sun's strength that arrives through its window."""
    sx, sy, sz = sun.towards
    cosine = sx * normal[0] + sy * normal[1] + sz * normal[2]
    travel = (sun.low[sun.axis] - point[sun.axis]) * (1.0 / sun.towards[sun.axis])
    inside = (cosine > 0.0) & (travel > 0.0)
    for i in range(3):
        if i != sun.axis:
            at_window = point[i] + travel * sun.towards[i]
            inside &= (at_window > sun.low[i]) & (at_window < sun.high[i])
    lit = np.flatnonzero(inside)
    to = np.array(sun.towards, dtype=np.float32)[:, None] * travel[lit]
    centre, radius = _balls(casters)
    start = point[:, lit]
    sideways = np.array([(sy, -sx, 0.0), (sx * sz, sy * sz, -sx * sx - sy * sy)], dtype=np.float32)
    sideways /= np.sqrt((sideways * sideways).sum(axis=1, keepdims=True))
    gap = (centre @ sideways.T)[:, :, None] - sideways @ start
    candidates = (gap * gap).sum(axis=1) <= (radius * radius)[:, None]
    arriving = np.zeros_like(cosine)
    arriving[lit] = np.where(_hidden(casters, candidates, start, to), 0.0, cosine[lit])
    return arriving


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
    point = eye + hits.depth * np.stack(hits.rays) + _OFFSET * hits.normal
    albedo, emission = surface_colour(scene, hits, 1.0 / scene.camera.focal(height, width))
    casters = [p for p in scene.primitives if p.casts]

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
    light = light * (1.0 + light * 0.12) / (1.0 + light * 0.62)
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
