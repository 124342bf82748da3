"""Light that arrives at surface points: lamps and the sun, with shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqca.data.rooms.primitives import Primitive, Vector, enter, enter_box, make_rays, to_frame
from seqca.data.rooms.scene import Light, Scene, Sun

_SLACK = 0.01  # metres added to bounds, far above what rounding could take from them


@dataclass(frozen=True)
class Batch:
    """S solids of one kind, turn and axis: centre and half (3, S, 1), taper (S, 1), float32."""

    kind: int
    yaw: tuple[float, float]
    axis: int
    centre: np.ndarray
    half: np.ndarray
    taper: np.ndarray

    def hides(self, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """(M,) bool: whether any of the solids meets the segment origin … origin + direction, both (3, M)."""
        start = to_frame(self.yaw, origin[:, None, :] - self.centre)
        rays = make_rays(to_frame(self.yaw, direction)[:, None, :])
        entry = enter(self.kind, self.axis, self.half, self.taper, start, rays)
        hits: np.ndarray = (entry > 0.0) & (entry < 1.0)
        return np.logical_or.reduce(hits, axis=0)


@dataclass(frozen=True)
class Casters:
    """The O objects that throw shadows: their solids, and bounding boxes `low` … `high` (O, 3) float32."""

    solids: list[list[Batch]]
    low: np.ndarray
    high: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """(O, 3), of the bounding boxes and of the balls around them."""
        return 0.5 * (self.low + self.high)

    @property
    def radius(self) -> np.ndarray:
        """(O,), of the balls around the bounding boxes."""
        diagonal = self.high - self.low
        return 0.5 * np.sqrt((diagonal * diagonal).sum(axis=1))


def find_casters(scene: Scene) -> Casters:
    """The objects of a scene with solids that throw shadows."""
    objects: dict[int, dict[tuple[int, tuple[float, float], int], list[Primitive]]] = {}
    for primitive in scene.primitives:
        if primitive.casts:
            alike = (primitive.kind, primitive.yaw, primitive.axis)
            objects.setdefault(primitive.owner, {}).setdefault(alike, []).append(primitive)
    low, high = np.empty((2, len(objects), 3), dtype=np.float32)
    for index, batches in enumerate(objects.values()):
        boxes = np.array([_bounds(p) for batch in batches.values() for p in batch])
        low[index], high[index] = boxes[:, 0].min(axis=0) - _SLACK, boxes[:, 1].max(axis=0) + _SLACK
    return Casters([[_batch(b) for b in batches.values()] for batches in objects.values()], low, high)


def _bounds(primitive: Primitive) -> tuple[Vector, Vector]:
    """Opposite corners of the box, parallel to the room, that holds a solid."""
    (x, y, z), (hx, hy, hz) = primitive.centre, primitive.bounding_half()
    cos, sin = abs(primitive.yaw[0]), abs(primitive.yaw[1])
    reach_x, reach_y = cos * hx + sin * hy, sin * hx + cos * hy
    return (x - reach_x, y - reach_y, z - hz), (x + reach_x, y + reach_y, z + hz)


def _batch(alike: list[Primitive]) -> Batch:
    centre = np.array([p.centre for p in alike], dtype=np.float32).T[..., None]
    half = np.array([p.half for p in alike], dtype=np.float32).T[..., None]
    taper = np.array([[p.taper] for p in alike], dtype=np.float32)
    return Batch(alike[0].kind, alike[0].yaw, alike[0].axis, centre, half, taper)


def hidden(casters: Casters, candidates: np.ndarray, start: np.ndarray, to: np.ndarray) -> np.ndarray:
    """(M,) bool: whether a solid meets the segment from start to start + to, both (3, M).

    `candidates` (O, M) says which segments come near which object at all; those are tried against the object's
    bounding box, and what meets that against its solids.
    """
    result = np.zeros(start.shape[1], dtype=bool)
    for batches, candidate, centre, high in zip(casters.solids, candidates, casters.centre, casters.high, strict=True):
        at = np.flatnonzero(candidate & ~result)
        if not at.size:
            continue
        origin, direction = start[:, at], to[:, at]
        entry = enter_box(origin - centre[:, None], make_rays(direction), (high - centre)[:, None])
        near = np.flatnonzero(entry < 1.0)  # negative where the start is inside the box
        at, origin, direction = at[near], origin[:, near], direction[:, near]
        for batch in batches:
            result[at] |= batch.hides(origin, direction)
    return result


def lamp_light(light: Light, casters: Casters, point: np.ndarray, normal: np.ndarray, jitter: np.ndarray) -> np.ndarray:
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
