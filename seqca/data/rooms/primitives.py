"""Boxes, cylinders and ellipsoids, and where rays enter them.

World coordinates: x and y span the floor, z points up, metres. A primitive has a frame of its own, turned
about the vertical by `yaw` around its `centre`; the functions below work in that frame. Every function takes
the ray's origin as scalars or arrays and its direction as arrays, and uses nothing but + - * / and square
roots, which IEEE 754 rounds in one way only: what is hit is the same on every machine, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BOX, CYLINDER, ELLIPSOID = 0, 1, 2

Vector = tuple[float, float, float]
Scalars = float | np.ndarray


@dataclass(frozen=True, slots=True)
class Primitive:
    """One convex solid.

    `half` holds the half extents along the frame's axes. A cylinder has its axis along `axis` and the other two
    half extents equal to the radius in its middle; `taper` is the change of radius per metre along the axis
    (0: a cylinder, else part of a cone). `casts`: whether it throws shadows. `material` and `owner` index the
    scene's materials and objects.
    """

    kind: int
    centre: Vector
    half: Vector
    yaw: tuple[float, float] = (1.0, 0.0)
    axis: int = 2
    taper: float = 0.0
    material: int = 0
    owner: int = 0
    casts: bool = True

    def bounding_half(self) -> Vector:
        """Half extents of the smallest box in the primitive's frame that holds it."""
        if self.taper == 0.0:
            return self.half
        swell = abs(self.taper) * self.half[self.axis]
        x, y, z = (h if i == self.axis else h + swell for i, h in enumerate(self.half))
        return x, y, z


class Rays(NamedTuple):
    """Directions of many rays, with 1 / direction and its magnitude, which slabs need; each (3, ...) float32."""

    direction: np.ndarray
    inverse: np.ndarray
    reach: np.ndarray


def to_frame(yaw: tuple[float, float], vectors: np.ndarray) -> np.ndarray:
    """World vectors (3, ...) in a frame turned by yaw = (cos, sin)."""
    cos, sin = yaw
    if sin == 0.0 and cos == 1.0:
        return vectors
    x, y, z = vectors
    return np.stack([cos * x + sin * y, cos * y - sin * x, z])


def make_rays(direction: np.ndarray) -> Rays:
    """Rays of the given directions (3, ...).

    A component of zero is taken as 1e-12, so that slabs stay finite; others that small do not occur.
    """
    inverse = 1.0 / (direction + np.float32(1e-12))
    return Rays(direction, inverse, np.abs(inverse))


def slab(origin: np.ndarray, inverse: np.ndarray, reach: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameters of entry into and exit from |x| <= half, component by component."""
    middle = -origin * inverse
    extent = half * reach
    return middle - extent, middle + extent


def enter_box(origin: np.ndarray, rays: Rays, half: np.ndarray) -> np.ndarray:
    """Ray parameter where rays enter a box; infinity where they miss it."""
    near, far = slab(origin, rays.inverse, rays.reach, half)
    entry = np.maximum(np.maximum(near[0], near[1]), near[2])
    entry[entry > np.minimum(np.minimum(far[0], far[1]), far[2])] = np.inf
    return entry


def enter_cylinder(origin: np.ndarray, rays: Rays, half: np.ndarray, axis: int, taper: Scalars) -> np.ndarray:
    """Ray parameter where rays enter a capped cylinder or cone frustum; infinity where they miss it.

    The lateral surface is |p|² = r(z)², a quadratic a·t² + 2b·t + c. Its discriminant is taken from the value at
    the vertex t = -b/a instead of b² - a·c, which cancels in float32 for thin legs far away. A ray must be
    less steep than the cone, |taper · dz| < |dxy|, so that a > 0.
    """
    i, j = (axis + 1) % 3, (axis + 2) % 3
    x, y, z = origin[i], origin[j], origin[axis]
    dx, dy, dz = rays.direction[i], rays.direction[j], rays.direction[axis]
    radius = half[i] + taper * z
    widening = taper * dz
    a = np.maximum(dx * dx + dy * dy - widening * widening, np.float32(1e-12))
    vertex = (radius * widening - x * dx - y * dy) / a
    px, py, pr = x + vertex * dx, y + vertex * dy, radius + vertex * widening
    squared = (pr * pr - px * px - py * py) / a
    reach = np.sqrt(np.maximum(squared, 0.0))
    near, far = slab(z, rays.inverse[axis], rays.reach[axis], half[axis])
    entry = np.maximum(near, vertex - reach)
    entry[(entry > np.minimum(far, vertex + reach)) | (squared <= 0.0)] = np.inf
    return entry


def enter_ellipsoid(origin: np.ndarray, rays: Rays, half: np.ndarray) -> np.ndarray:
    """Ray parameter where rays enter an ellipsoid; infinity where they miss it.

    Scaled to the unit sphere; the discriminant is taken at the point nearest to the centre, as above.
    """
    scale = 1.0 / half
    start, direction = origin * scale, rays.direction * scale
    a = _dot(direction, direction)
    nearest = -_dot(start, direction) / a
    point = start + nearest * direction
    squared = (1.0 - _dot(point, point)) / a
    entry = nearest - np.sqrt(np.maximum(squared, 0.0))
    entry[squared <= 0.0] = np.inf
    return entry


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product = a * b
    return product[0] + product[1] + product[2]


def enter(kind: int, axis: int, half: np.ndarray, taper: Scalars, origin: np.ndarray, rays: Rays) -> np.ndarray:
    """Ray parameter where rays, given in the solid's frame, enter it; infinity where they miss it."""
    if kind == BOX:
        return enter_box(origin, rays, half)
    if kind == CYLINDER:
        return enter_cylinder(origin, rays, half, axis, taper)
    return enter_ellipsoid(origin, rays, half)
