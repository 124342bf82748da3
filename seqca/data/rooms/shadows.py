"""Light that arrives at surface points: lamps and the sun, with shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqca.data.rooms.primitives import Primitive, enter, enter_box, reciprocal, to_frame
from seqca.data.rooms.scene import Light, Scene, Sun

_SLACK = 0.01  # metres added to bounds, far above what rounding could take from them


@dataclass(frozen=True)
class Casters:
    """The O objects that throw shadows: their solids, bounding boxes and the balls around those."""

    solids: list[list[Primitive]]
    low: np.ndarray
    high: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """(O, 3) float32, of the bounding balls."""
        return 0.5 * (self.low + self.high)

    @property
    def radius(self) -> np.ndarray:
        """(O,) float32, of the bounding balls."""
        diagonal = self.high - self.low
        return 0.5 * np.sqrt((diagonal * diagonal).sum(axis=1))


def find_casters(scene: Scene) -> Casters:
    """The objects of a scene with solids that throw shadows."""
    groups: dict[int, list[Primitive]] = {}
    for primitive in scene.primitives:
        if primitive.casts:
            groups.setdefault(primitive.owner, []).append(primitive)
    low, high = np.full((2, len(groups), 3), np.inf, dtype=np.float32) * np.array([1, -1], np.float32)[:, None, None]
    for index, solids in enumerate(groups.values()):
        for solid in solids:
            cos, sin = abs(solid.yaw[0]), abs(solid.yaw[1])
            x, y, z = solid.bounding_half()
            reach = (cos * x + sin * y + _SLACK, sin * x + cos * y + _SLACK, z + _SLACK)
            for i in range(3):
                low[index, i] = min(low[index, i], solid.centre[i] - reach[i])
                high[index, i] = max(high[index, i], solid.centre[i] + reach[i])
    return Casters(list(groups.values()), low, high)


def hidden(casters: Casters, candidates: np.ndarray, start: np.ndarray, to: np.ndarray) -> np.ndarray:
    """(M,) bool: whether a solid meets the segment from start to start + to, both (3, M).

    `candidates` (O, M) says which segments come near which object at all; those are tried against the object's
    bounding box, and what meets that against its solids.
    """
    result = np.zeros(start.shape[1], dtype=bool)
    for index, solids in enumerate(casters.solids):
        at = np.flatnonzero(candidates[index] & ~result)
        if not at.size:
            continue
        origin, direction = start[:, at], to[:, at]
        if len(solids) > 1:
            centre = casters.centre[index]
            half = casters.high[index] - centre
            entry = enter_box(tuple(origin - centre[:, None]), tuple(reciprocal(direction)), tuple(half))
            # A start inside the box has a negative entry.
            near = np.flatnonzero(entry < 1.0)
            at, origin, direction = at[near], origin[:, near], direction[:, near]
        frames = {}
        for solid in solids:
            if solid.yaw not in frames:
                turned = (*to_frame(solid.yaw, direction[0], direction[1]), direction[2])
                frames[solid.yaw] = turned, tuple(map(reciprocal, turned))
            turned, inverse = frames[solid.yaw]
            x, y, z = (origin[i] - solid.centre[i] for i in range(3))
            entry = enter(solid, (*to_frame(solid.yaw, x, y), z), turned, inverse)
            result[at[(entry > 0.0) & (entry < 1.0)]] = True
    return result


def lamp_light(
    light: Light, casters: Casters, point: np.ndarray, normal: np.ndarray, jitter: np.ndarray
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

    # A segment can meet a ball only if it leaves the light inside the cone around the ball and ends behind its
    # front. The jitter turns directions by no more than enlarging the ball by the light's radius covers.
    offset = casters.centre - position.T
    apart = np.maximum(np.sqrt((offset * offset).sum(axis=1)), np.float32(1e-6))
    radius = casters.radius + np.float32(1.5 * light.radius)
    sine = np.minimum(radius / apart, 1.0)
    widest = np.where(radius >= apart, np.float32(-2.0), np.sqrt(1.0 - sine * sine))
    away = to[:, lit] / -distance[lit]
    candidates = (offset / apart[:, None]) @ away >= widest[:, None]
    candidates &= distance[lit] >= (apart - radius)[:, None]

    shadow = hidden(casters, candidates, point[:, lit], to[:, lit] + np.float32(light.radius) * jitter[:, lit])
    arriving[lit] = np.where(shadow, np.float32(0), cosine[lit] / (0.5 + 0.35 * squared[lit]))
    return arriving


def sun_light(sun: Sun, casters: Casters, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(N,) share of the sun's strength that arrives through its window."""
    cosine = sum(s * n for s, n in zip(sun.towards, normal, strict=True))
    travel = (sun.low[sun.axis] - point[sun.axis]) * (1.0 / sun.towards[sun.axis])
    inside = (cosine > 0.0) & (travel > 0.0)
    for i in range(3):
        if i != sun.axis:
            at_window = point[i] + travel * sun.towards[i]
            inside &= (at_window > sun.low[i]) & (at_window < sun.high[i])
    lit = np.flatnonzero(inside)
    arriving = np.zeros_like(cosine)
    to = np.array(sun.towards, dtype=np.float32)[:, None] * travel[lit]
    everything = np.ones((len(casters.solids), lit.size), dtype=bool)
    arriving[lit] = np.where(hidden(casters, everything, point[:, lit], to), np.float32(0), cosine[lit])
    return arriving
