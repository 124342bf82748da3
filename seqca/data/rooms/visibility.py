"""Which surface each pixel sees, where, and with which normal: exact, one ray through each pixel's centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqca.data.rooms.primitives import BOX, CYLINDER, ELLIPSOID, Primitive, Rays, enter, make_rays, slab, to_frame
from seqca.data.rooms.scene import Camera, Scene

CURVED = 6  # the face number of what is not flat
FACES = 8  # surface id = FACES · solid + face; the room is solid 0, primitive i is solid i + 1
_NEAR = 0.02
_ROOM = -1  # the kind of solid 0


@dataclass(frozen=True)
class Hits:
    """What the N = H·W pixels see, row by row. All arrays float32 but for the ids.

    `depth` (N,) metres along the optical axis; `rays` (3, N) the world vector that leads one metre of depth ahead;
    `solid` (N,) int16, 0 the room, i + 1 primitive i; `face` (N,) int8: 2·axis + (1 if the normal points to the
    positive side) of box faces, cylinder caps and the room's sides, CURVED for what is not flat; `local` (3, N) the
    point in the solid's frame, relative to its centre; `normal` (3, N) the unit normal in world coordinates, out of
    a solid and into the room.
    """

    depth: np.ndarray
    rays: np.ndarray
    solid: np.ndarray
    face: np.ndarray
    local: np.ndarray
    normal: np.ndarray

    @property
    def surface(self) -> np.ndarray:
        """(N,) int32 id of the smooth surface seen."""
        return self.solid.astype(np.int32) * FACES + self.face


def pixel_rays(camera: Camera, height: int, width: int) -> np.ndarray:
    """World vectors (3, H, W) float32 of the rays through the pixel centres, of unit depth."""
    scale = 1.0 / camera.focal(height, width)
    x = ((np.arange(width) + (0.5 - 0.5 * width)) * scale).astype(np.float32)[None, :]
    y = ((np.arange(height) + (0.5 - 0.5 * height)) * scale).astype(np.float32)[:, None]
    right, down, forward = camera.right, camera.down, camera.forward
    return np.stack([x * right[i] + (y * down[i] + forward[i]) for i in range(3)])


def screen_bounds(primitives: tuple[Primitive, ...], camera: Camera, height: int, width: int) -> np.ndarray:
    """(P, 4) int: rows and columns [y0, y1, x0, x1) that hold each primitive; empty if it is not in view.

    The corners of the bounding box are projected; where its edges cross the near plane, the crossings are too.
    """
    centre = np.array([p.centre for p in primitives])
    half = np.array([p.bounding_half() for p in primitives])
    yaw = np.array([p.yaw for p in primitives])
    signs = np.array([[(c >> i & 1) * 2.0 - 1.0 for i in range(3)] for c in range(8)])
    offset = half[:, None, :] * signs
    cos, sin = yaw[:, None, 0], yaw[:, None, 1]
    px = centre[:, None, 0] + cos * offset[..., 0] - sin * offset[..., 1] - camera.eye[0]
    py = centre[:, None, 1] + sin * offset[..., 0] + cos * offset[..., 1] - camera.eye[1]
    pz = centre[:, None, 2] + offset[..., 2] - camera.eye[2]
    x, y, z = (px * axis[0] + py * axis[1] + pz * axis[2] for axis in (camera.right, camera.down, camera.forward))
    first = [c for i in range(3) for c in range(8) if not c >> i & 1]
    second = [c | 1 << i for i in range(3) for c in range(8) if not c >> i & 1]
    share = (_NEAR - z[:, first]) / np.where(z[:, second] == z[:, first], 1.0, z[:, second] - z[:, first])
    crosses = (z[:, first] < _NEAR) != (z[:, second] < _NEAR)
    cut = [p[:, first] + share * (p[:, second] - p[:, first]) for p in (x, y)]
    seen = np.concatenate([z >= _NEAR, crosses], axis=1)
    deep = np.concatenate([z, np.full_like(share, _NEAR)], axis=1)
    focal = camera.focal(height, width)
    bounds = np.empty((len(primitives), 4), dtype=np.int64)
    for column, values, edge_values, size in ((2, x, cut[0], width), (0, y, cut[1], height)):
        pixel = np.concatenate([values, edge_values], axis=1) * focal / np.where(seen, deep, 1.0) + 0.5 * size
        low = np.where(seen, pixel, np.inf).min(axis=1)
        high = np.where(seen, pixel, -np.inf).max(axis=1)
        bounds[:, column] = np.clip(np.floor(low) - 1, 0, size)
        bounds[:, column + 1] = np.clip(np.ceil(high) + 1, 0, size)
    return bounds


def trace(scene: Scene, height: int, width: int) -> Hits:
    """Cast one ray through the centre of each pixel."""
    vectors = pixel_rays(scene.camera, height, width)
    rays = make_rays(vectors)
    frames = {(1.0, 0.0): rays}
    middle = tuple(0.5 * s for s in scene.size)
    centres = np.array([middle, *(p.centre for p in scene.primitives)])
    cos, sin = np.array([(1.0, 0.0), *(p.yaw for p in scene.primitives)]).T
    x, y, z = (np.array(scene.camera.eye) - centres).T
    origins = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1).astype(np.float32)[..., None, None]
    halves = np.array([middle, *(p.half for p in scene.primitives)], dtype=np.float32)[..., None, None]

    far = slab(origins[0], rays.inverse, rays.reach, halves[0])[1]
    depth = np.minimum(np.minimum(far[0], far[1]), far[2])
    room_axis = np.where(far[0] == depth, 0, np.where(far[1] == depth, 1, 2))
    solid = np.zeros((height, width), dtype=np.int16)
    bounds = screen_bounds(scene.primitives, scene.camera, height, width).tolist() if scene.primitives else []
    for number, (primitive, (y0, y1, x0, x1)) in enumerate(zip(scene.primitives, bounds, strict=True), start=1):
        if y0 >= y1 or x0 >= x1:
            continue
        if primitive.yaw not in frames:
            frames[primitive.yaw] = make_rays(to_frame(primitive.yaw, vectors))
        part = (slice(y0, y1), slice(x0, x1))
        inside = Rays(*(c[:, y0:y1, x0:x1] for c in frames[primitive.yaw]))
        entry = enter(primitive.kind, primitive.axis, halves[number], primitive.taper, origins[number], inside)
        nearer = (entry < depth[part]) & (entry > 0.0)
        np.copyto(depth[part], entry, where=nearer)
        np.copyto(solid[part], number, where=nearer)
    return _surfaces(
        scene, depth.ravel(), vectors.reshape(3, -1), solid.ravel(), room_axis.ravel(), origins[..., 0, 0].T
    )


def _surfaces(
    scene: Scene, depth: np.ndarray, rays: np.ndarray, solid: np.ndarray, room_axis: np.ndarray, origin: np.ndarray
) -> Hits:
    """Point, face and normal at each pixel, from the solid and the depth; `origin` (3, solids) in their frames.

    A flat face is known by its slab: entering it is what gave the depth, computed here a second time with the
    same roundings.
    """
    primitives = scene.primitives
    yaw = np.array([(1.0, 0.0), *(p.yaw for p in primitives)], dtype=np.float32)
    half = np.array([[0.5 * s for s in scene.size], *(p.half for p in primitives)], dtype=np.float32).T
    kind = np.array([_ROOM, *(p.kind for p in primitives)], dtype=np.int8)[solid]
    cos, sin = yaw[solid].T
    direction = np.stack([cos * rays[0] + sin * rays[1], cos * rays[1] - sin * rays[0], rays[2]])
    local = origin[:, solid] + depth * direction
    face = np.full(depth.shape, CURVED, dtype=np.int8)
    normal = np.zeros_like(local)

    def entry(axis: np.ndarray | int, at: np.ndarray) -> np.ndarray:
        ray = make_rays(direction[axis, at])
        return slab(origin[axis, solid[at]], ray.inverse, ray.reach, half[axis, solid[at]])[0]

    def set_flat(axis: np.ndarray, at: np.ndarray) -> None:
        positive = direction[axis, at] < 0
        face[at] = 2 * axis + positive
        normal[axis, at] = np.where(positive, np.float32(1), np.float32(-1))

    at = np.flatnonzero(kind == _ROOM)
    set_flat(room_axis[at], at)
    at = np.flatnonzero(kind == BOX)
    set_flat(np.stack([entry(i, at) for i in range(3)]).argmax(axis=0), at)

    at = np.flatnonzero(kind == CYLINDER)
    axis = np.array([0, *(p.axis for p in primitives)])[solid[at]]
    capped = entry(axis, at) == depth[at]
    set_flat(axis[capped], at[capped])
    at, axis = at[~capped], axis[~capped]
    taper = np.array([0.0, *(p.taper for p in primitives)], dtype=np.float32)[solid[at]]
    i, j = (axis + 1) % 3, (axis + 2) % 3
    x, y = local[i, at], local[j, at]
    radius = np.sqrt(x * x + y * y)
    scale = 1.0 / (radius * np.sqrt(1.0 + taper * taper))
    normal[i, at], normal[j, at], normal[axis, at] = x * scale, y * scale, -taper * radius * scale

    at = np.flatnonzero(kind == ELLIPSOID)
    size = half[:, solid[at]]
    gradient = local[:, at] / (size * size)
    x, y, z = gradient
    normal[:, at] = gradient / np.sqrt(x * x + y * y + z * z)
    world = np.stack([cos * normal[0] - sin * normal[1], sin * normal[0] + cos * normal[1], normal[2]])
    return Hits(depth, rays, solid, face, local, world)
