"""Scenes made by hand, and measurements on scenes that share no code with the renderer."""

from __future__ import annotations

import numpy as np

from seqca.data.rooms.classes import CLASS_INDEX
from seqca.data.rooms.primitives import BOX, CYLINDER, Primitive
from seqca.data.rooms.scene import Camera, Light, Scene, look
from seqca.data.rooms.textures import Material

GREY = Material("plain", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STRAIGHT = look((2.0, 1.0, 1.5), (2.0, 5.0, 1.5), 0.8)  # level, looking along +y


def scene_of(*primitives: Primitive, owners: tuple[str, ...] = (), camera: Camera = STRAIGHT) -> Scene:
    """A room of 4 x 6 x 3 metres with the given solids; every owner is a table unless said otherwise."""
    count = max((p.owner for p in primitives), default=-1) + 1
    names = owners or ("table",) * count
    return Scene(
        size=(4.0, 6.0, 3.0),
        surfaces=(GREY, GREY, GREY),
        primitives=primitives,
        materials=(GREY,),
        owners=tuple(CLASS_INDEX[name] for name in names),
        camera=camera,
        lights=(Light((2.0, 2.0, 2.8), (2.0, 2.0, 2.0), 0.1),),
    )


def directions(camera: Camera, height: int, width: int) -> np.ndarray:
    """(H, W, 3) float64 camera coordinates (x, y, 1) of the rays through the pixel centres."""
    focal = camera.focal(height, width)
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (np.arange(height) + 0.5 - height / 2) / focal
    return np.stack([*np.meshgrid(x, y), np.ones((height, width))], axis=-1)


def to_world(camera: Camera, vectors: np.ndarray) -> np.ndarray:
    """Camera coordinates (..., 3) as world vectors."""
    return vectors @ np.array([camera.right, camera.down, camera.forward])


def to_camera(camera: Camera, vectors: np.ndarray) -> np.ndarray:
    """World vectors (..., 3) in camera coordinates."""
    return vectors @ np.array([camera.right, camera.down, camera.forward]).T


def points(scene: Scene, depth: np.ndarray) -> np.ndarray:
    """(H, W, 3) world points at the given depth."""
    rays = directions(scene.camera, *depth.shape)
    return np.array(scene.camera.eye) + to_world(scene.camera, rays * depth[..., None].astype(np.float64))


def gap(primitive: Primitive, world: np.ndarray) -> np.ndarray:
    """How far points (..., 3) are from the surface of a solid, about; negative inside, positive outside."""
    x, y, z = np.moveaxis(world - np.array(primitive.centre), -1, 0)
    cos, sin = primitive.yaw
    local = np.stack([cos * x + sin * y, cos * y - sin * x, z])
    half = np.array(primitive.half).reshape(3, *(1,) * (world.ndim - 1))
    if primitive.kind == BOX:
        return (np.abs(local) - half).max(axis=0)
    if primitive.kind == CYLINDER:
        along = local[primitive.axis]
        across = np.delete(local, primitive.axis, axis=0)
        radius = primitive.half[(primitive.axis + 1) % 3] + primitive.taper * along
        return np.maximum(np.hypot(*across) - radius, np.abs(along) - primitive.half[primitive.axis])
    return (np.sqrt(((local / half) ** 2).sum(axis=0)) - 1) * min(primitive.half)
