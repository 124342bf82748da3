"""Boxes, cylinders and ellipsoids, and where rays enter them.

World coordinates: x and y span the floor, z points up, metres. A primitive has a frame of its own, turned
about the vertical by `yaw` around its `centre`; the functions below work in that frame. Every function takes
the ray's origin as scalars or arrays and its direction as arrays, and uses nothing but + - * / and square
roots, which IEEE 754 rounds in one way only: what is hit is the same on every machine, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

BOX, CYLINDER, ELLIPSOID = 0, 1, 2

Vector = tuple[float, float, float]
Scalars = float | np.ndarray
Rays = tuple[np.ndarray, ...]  # the three components of many vectors
S = TypeVar("S", float, np.ndarray)


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


def to_frame(yaw: tuple[float, float], x: S, y: S) -> tuple[S, S]:
    """World x and y components of a vector in a frame turned by yaw = (cos, sin)."""
    cos, sin = yaw
    if sin == 0.0 and cos == 1.0:
        return x, y
    return cos * x + sin * y, cos * y - sin * x


def reciprocal(direction: np.ndarray) -> np.ndarray:
    """1 / direction, where zero is taken as 1e-12 so that slabs stay finite; others that small do not occur."""
    return 1.0 / (direction + np.float32(1e-12))


def slab(origin: Scalars, inverse: np.ndarray, half: Scalars) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameters of entry into and exit from |x| <= half along one axis."""
    middle = -origin * inverse
    reach = half * np.abs(inverse)
    return middle - reach, middle + reach


def enter_box(origin: tuple[Scalars, ...], inverse: Rays, half: tuple[Scalars, ...]) -> np.ndarray:
    """Ray parameter where rays enter a box; infinity where they miss it."""
    near, far = slab(origin[0], inverse[0], half[0])
    for i in (1, 2):
        near_i, far_i = slab(origin[i], inverse[i], half[i])
        np.maximum(near, near_i, out=near)
        np.minimum(far, far_i, out=far)
    near[near > far] = np.inf
    return near


def enter_cylinder(
    origin: tuple[Scalars, ...],
    direction: Rays,
    inverse: Rays,
    half: tuple[Scalars, ...],
    axis: int,
    taper: Scalars,
) -> np.ndarray:
    """Ray parameter where rays enter a capped cylinder or cone frustum; infinity where they miss it.

    The lateral surface is |p|² = r(z)², a quadratic a·t² + 2b·t + c. Its discriminant is taken from the value at
    the vertex t = -b/a instead of b² - a·c, which cancels in float32 for thin legs far away. A ray must be
    less steep than the cone, |taper · dz| < |dxy|, so that a > 0.
    """
    i, j = (axis + 1) % 3, (axis + 2) % 3
    x, y, z = origin[i], origin[j], origin[axis]
    dx, dy, dz = direction[i], direction[j], direction[axis]
    radius = half[i] + taper * z
    widening = taper * dz
    a = np.maximum(dx * dx + dy * dy - widening * widening, np.float32(1e-12))
    vertex = (radius * widening - x * dx - y * dy) / a
    px, py, pr = x + vertex * dx, y + vertex * dy, radius + vertex * widening
    squared = (pr * pr - px * px - py * py) / a
    reach = np.sqrt(np.maximum(squared, 0.0))
    near, far = slab(z, inverse[axis], half[axis])
    np.maximum(near, vertex - reach, out=near)
    np.minimum(far, vertex + reach, out=far)
    near[(near > far) | (squared <= 0.0)] = np.inf
    return near


def enter_ellipsoid(origin: tuple[Scalars, ...], direction: Rays, half: tuple[Scalars, ...]) -> np.ndarray:
    """Ray parameter where rays enter an ellipsoid; infinity where they miss it.

    Scaled to the unit sphere; the discriminant is taken at the point nearest to the centre, as above.
    """
    x, y, z = (o * (1.0 / h) for o, h in zip(origin, half, strict=True))
    dx, dy, dz = (d * (1.0 / h) for d, h in zip(direction, half, strict=True))
    a = dx * dx + dy * dy + dz * dz
    nearest = -(x * dx + y * dy + z * dz) / a
    px, py, pz = x + nearest * dx, y + nearest * dy, z + nearest * dz
    squared = (1.0 - px * px - py * py - pz * pz) / a
    entry = nearest - np.sqrt(np.maximum(squared, 0.0))
    entry[squared <= 0.0] = np.inf
    return entry


def enter(
    kind: int, axis: int, half: tuple[Scalars, ...], taper: Scalars,
    origin: tuple[Scalars, ...], direction: Rays, inverse: Rays,
) -> np.ndarray:  # fmt: skip
    """Ray parameter where rays, given in the solid's frame, enter it; infinity where they miss it."""
    if kind == BOX:
        return enter_box(origin, inverse, half)
    if kind == CYLINDER:
        return enter_cylinder(origin, direction, inverse, half, axis, taper)
    return enter_ellipsoid(origin, direction, half)
