"""What a scene is: a furnished room, its lights and a camera. Nothing here depends on the image size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seqca.data.rooms.primitives import Primitive, Vector
from seqca.data.rooms.textures import Colour, Material


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; its axes right, down and forward are orthonormal world vectors.

    `tan_half` is the tangent of half the horizontal field of view of a 4:3 image; a wider image sees as far to
    the sides, a narrower one as far up and down.
    """

    eye: Vector
    right: Vector
    down: Vector
    forward: Vector
    tan_half: float

    def focal(self, height: int, width: int) -> float:
        """Focal length in pixels."""
        return max(width, height * 4 / 3) / (2 * self.tan_half)


@dataclass(frozen=True)
class Light:
    """A small luminous ball; `colour` is its linear RGB strength."""

    position: Vector
    colour: Colour
    radius: float


@dataclass(frozen=True)
class Sun:
    """Parallel light from the unit direction `towards`, through the rectangle low … high in a wall.

    The wall is the plane where coordinate `axis` has the common value of low[axis] and high[axis].
    """

    towards: Vector
    colour: Colour
    axis: int
    low: Vector
    high: Vector


@dataclass(frozen=True)
class Scene:
    """Everything the renderer needs.

    `size` is the room's extent (x, y, z) in metres, one corner at the origin; `surfaces` are the materials of
    wall, floor and ceiling. `owners[i]` is the class of object i, to which primitives refer. `noise` is the
    entropy of the camera's noise, `noise_level` its standard deviation as a share of white.
    """

    size: Vector
    surfaces: tuple[Material, Material, Material]
    primitives: tuple[Primitive, ...]
    materials: tuple[Material, ...]
    owners: tuple[int, ...]
    camera: Camera
    lights: tuple[Light, ...] = ()
    sun: Sun | None = None
    ambient: Colour = (0.4, 0.4, 0.4)
    exposure: float = 1.0
    noise: tuple[int, ...] = (0,)
    noise_level: float = 0.0


def look(eye: Vector, target: Vector, tan_half: float, roll: tuple[float, float] = (1.0, 0.0)) -> Camera:
    """The camera at `eye` looking at `target`, rolled about its axis by the angle whose (cos, sin) is `roll`.

    `target` must not be straight above or below `eye`.
    """
    fx, fy, fz = (t - e for t, e in zip(target, eye, strict=True))
    flat = math.sqrt(fx * fx + fy * fy)
    norm = math.sqrt(fx * fx + fy * fy + fz * fz)
    if flat < 1e-6 * norm or norm == 0.0:
        raise ValueError(f"target: got {target} and eye {eye}, expected a target neither above nor below the eye")
    rx, ry = fy / flat, -fx / flat
    fx, fy, fz = fx / norm, fy / norm, fz / norm
    dx, dy, dz = -fz * ry, fz * rx, fx * ry - fy * rx  # forward x right
    c, s = roll
    right = (c * rx + s * dx, c * ry + s * dy, s * dz)
    down = (c * dx - s * rx, c * dy - s * ry, c * dz)
    return Camera(eye, right, down, (fx, fy, fz), tan_half)
