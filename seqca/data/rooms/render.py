"""A scene as an image with its exact labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqca.data.rooms.classes import CLASS_INDEX, ROOMS_CLASSES, STRUCTURE
from seqca.data.rooms.scene import Scene
from seqca.data.rooms.shading import shade
from seqca.data.rooms.visibility import Hits, trace

MIN_SIZE = 8
FOREMOST_AREA = 0.01  # share of the image that an object must cover to count as salient
FOREMOST_DEPTH = 1.3  # objects up to this factor behind the foremost one are salient too


@dataclass(frozen=True)
class Rendering:
    """An image and its labels, H rows and W columns.

    image     (H, W, 3) uint8, RGB.
    semseg    (H, W) int64, index into ROOMS_CLASSES.
    depth     (H, W) float32, metres along the optical axis.
    normals   (3, H, W) float32, unit, camera coordinates: x right, y down, z forward; they face the camera.
    edge      (H, W) float32, 1 where the surface differs from the east, south or south-east neighbour's.
    sal       (H, W) float32, 1 on the foremost objects.
    surface   (H, W) int32, an id per smooth surface.
    """

    image: np.ndarray
    semseg: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    edge: np.ndarray
    sal: np.ndarray
    surface: np.ndarray


def render(scene: Scene, height: int, width: int) -> Rendering:
    """Render a scene with all labels; both sides at least MIN_SIZE pixels."""
    if height < MIN_SIZE or width < MIN_SIZE:
        raise ValueError(f"height, width: got {height}×{width} pixels, expected at least {MIN_SIZE}×{MIN_SIZE}")
    hits = trace(scene, height, width)
    shape = (height, width)
    owner = np.array([-1, *(p.owner for p in scene.primitives)], dtype=np.int32)[hits.solid]
    surface = hits.surface.reshape(shape)
    return Rendering(
        image=shade(scene, hits, height, width),
        semseg=semantic_labels(scene, hits, owner).reshape(shape),
        depth=hits.depth.reshape(shape),
        normals=camera_normals(scene, hits).reshape(3, *shape),
        edge=surface_edges(surface),
        sal=foremost(scene, hits.depth, owner).reshape(shape),
        surface=surface,
    )


def semantic_labels(scene: Scene, hits: Hits, owner: np.ndarray) -> np.ndarray:
    """(N,) int64 class of each pixel; `owner` (N,) is its object, -1 the room."""
    structure = [CLASS_INDEX["wall"]] * 4 + [CLASS_INDEX["ceiling"], CLASS_INDEX["floor"], 0]
    room = np.array(structure, dtype=np.int64)[hits.face]  # inward normals: face 4 points down, 5 up
    return np.where(owner < 0, room, np.array([*scene.owners, 0], dtype=np.int64)[owner])


def camera_normals(scene: Scene, hits: Hits) -> np.ndarray:
    """(3, N) unit normals in camera coordinates."""
    camera, (x, y, z) = scene.camera, hits.normal
    return np.stack([x * a[0] + y * a[1] + z * a[2] for a in (camera.right, camera.down, camera.forward)])


def surface_edges(surface: np.ndarray) -> np.ndarray:
    """(H, W) float32: 1 where an id differs from its east, south or south-east neighbour inside the image."""
    edge = np.zeros(surface.shape, dtype=bool)
    edge[:, :-1] |= surface[:, :-1] != surface[:, 1:]
    edge[:-1] |= surface[:-1] != surface[1:]
    edge[:-1, :-1] |= surface[:-1, :-1] != surface[1:, 1:]
    return edge.astype(np.float32)


def foremost(scene: Scene, depth: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """(N,) float32: 1 on the foremost objects.

    Of the objects that are not part of the room (STRUCTURE) and cover at least FOREMOST_AREA of the image, the
    one with the smallest mean depth, and all with a mean depth at most FOREMOST_DEPTH times that.
    """
    count = len(scene.owners)
    if count == 0:
        return np.zeros(depth.shape, dtype=np.float32)
    on = owner >= 0
    area = np.bincount(owner[on], minlength=count)
    mean = np.bincount(owner[on], weights=depth[on], minlength=count) / np.maximum(area, 1)
    loose = np.array([ROOMS_CLASSES[c] not in STRUCTURE for c in scene.owners])
    eligible = loose & (area >= FOREMOST_AREA * depth.size)
    limit = FOREMOST_DEPTH * np.where(eligible, mean, np.inf).min()
    salient = np.append(eligible & (mean <= limit), False)
    return salient[owner].astype(np.float32)
