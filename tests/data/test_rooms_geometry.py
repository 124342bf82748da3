"""Depth, normals and visibility against closed forms and against a slow search along the rays."""

import numpy as np
import pytest

from seqca.data.rooms import make_scene, render
from seqca.data.rooms.primitives import BOX, CYLINDER, ELLIPSOID, Primitive
from seqca.data.rooms.scene import look
from tests.data.scenes import STRAIGHT, directions, gap, points, scene_of, to_camera, to_world

TILTED = look((1.2, 0.7, 1.6), (2.6, 4.0, 0.6), 0.7, roll=(0.96, 0.28))


def test_a_wall_straight_ahead_has_one_depth_and_the_normal_that_faces_the_camera():
    rendering = render(scene_of(), 33, 44)
    wall = rendering.semseg == 0
    ahead = wall & (rendering.normals[2] < -0.5)
    assert ahead.sum() > 100
    np.testing.assert_allclose(rendering.depth[ahead], 5.0, rtol=1e-6)
    np.testing.assert_allclose(rendering.normals[:, ahead].T, np.tile([0, 0, -1.0], (ahead.sum(), 1)), atol=1e-6)


@pytest.mark.parametrize("camera", [STRAIGHT, TILTED], ids=["level", "tilted"])
def test_floor_depth_is_height_over_slope_and_its_normal_points_up(camera):
    scene = scene_of(camera=camera)
    rendering = render(scene, 48, 64)
    floor = rendering.semseg == 1
    slope = to_world(camera, directions(camera, 48, 64))[..., 2]
    assert floor.sum() > 200
    np.testing.assert_allclose(rendering.depth[floor], -camera.eye[2] / slope[floor], rtol=1e-5)
    up = to_camera(camera, np.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(rendering.normals[:, floor].T, np.tile(up, (floor.sum(), 1)), atol=1e-6)


@pytest.mark.parametrize("camera", [STRAIGHT, TILTED], ids=["level", "tilted"])
def test_a_sphere_has_the_depth_of_the_quadratic_formula_and_radial_normals(camera):
    centre, radius = np.array([2.2, 3.5, 1.1]), 0.6
    scene = scene_of(Primitive(ELLIPSOID, tuple(centre), (radius,) * 3), camera=camera)
    rendering = render(scene, 60, 80)
    rays = directions(camera, 60, 80)
    towards = to_camera(camera, centre - np.array(camera.eye))
    a, b = (rays**2).sum(-1), rays @ towards
    discriminant = b**2 - a * (towards @ towards - radius**2)
    inside = discriminant > 0
    sphere = rendering.semseg == 7
    assert (sphere == inside).all() and sphere.sum() > 200
    depth = (b - np.sqrt(np.maximum(discriminant, 0))) / a
    # Where the ray grazes the sphere the root amplifies rounding without bound; elsewhere it is exact.
    clear = discriminant > 1e-3
    np.testing.assert_allclose(rendering.depth[clear], depth[clear], rtol=2e-5)
    normals = (rays * depth[..., None] - towards) / radius
    np.testing.assert_allclose(rendering.normals[:, clear].T, normals[clear], atol=1e-3)


def test_a_turned_box_shows_its_faces_at_the_depth_of_their_planes():
    yaw, half, centre = (0.8, 0.6), (0.5, 0.3, 0.4), np.array([2.0, 3.0, 0.4])
    scene = scene_of(Primitive(BOX, tuple(centre), half, yaw))
    rendering = render(scene, 90, 120)
    axes = np.array([[yaw[0], yaw[1], 0.0], [-yaw[1], yaw[0], 0.0], [0.0, 0.0, 1.0]])
    rays = to_world(scene.camera, directions(scene.camera, 90, 120))
    eye = np.array(scene.camera.eye)
    box = rendering.semseg == 7
    seen = 0
    for axis, h in zip(axes, half, strict=True):
        for side in (-1, 1):
            normal = to_camera(scene.camera, side * axis)
            face = box & (np.abs(rendering.normals - normal[:, None, None]).max(axis=0) < 1e-5)
            plane = (h - side * axis @ (eye - centre)) / (side * rays @ axis)
            np.testing.assert_allclose(rendering.depth[face], plane[face], rtol=1e-5)
            seen += face.sum()
    assert seen == box.sum() > 300


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cylinders_have_flat_caps_and_radial_sides(axis):
    half = [0.3, 0.3, 0.3]
    half[axis] = 0.5
    cylinder = Primitive(CYLINDER, (2.0, 3.0, 0.9), tuple(half), (0.8, 0.6), axis)
    scene = scene_of(cylinder, camera=TILTED)
    rendering = render(scene, 90, 120)
    on = rendering.semseg == 7
    cos, sin = cylinder.yaw
    frame = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    local = (points(scene, rendering.depth)[on] - np.array(cylinder.centre)) @ frame.T
    normals = to_world(TILTED, rendering.normals[:, on].T.astype(np.float64)) @ frame.T
    cap = np.abs(local[:, axis]) > 0.5 - 1e-5
    assert 20 < cap.sum() < on.sum() - 50
    expected = np.where(np.arange(3) == axis, 0.0, local) / 0.3
    expected[cap] = np.eye(3)[axis] * np.sign(local[cap, axis])[:, None]
    np.testing.assert_allclose(normals, expected, atol=2e-4)


def test_a_cone_frustum_has_the_normal_of_its_slope():
    taper = -0.4
    scene = scene_of(Primitive(CYLINDER, (2.0, 3.0, 1.5), (0.4, 0.4, 0.5), taper=taper))
    rendering = render(scene, 60, 80)
    side = rendering.semseg == 7
    world = points(scene, rendering.depth)[side] - np.array([2.0, 3.0, 1.5])
    np.testing.assert_allclose(np.hypot(world[:, 0], world[:, 1]), 0.4 + taper * world[:, 2], atol=1e-5)
    normals = to_world(scene.camera, rendering.normals[:, side].T.astype(np.float64))
    np.testing.assert_allclose(normals[:, 2], -taper / np.hypot(1, taper), atol=1e-5)


@pytest.mark.parametrize("index", range(3))
def test_the_visible_point_lies_on_its_solid_and_nothing_stands_in_front_of_it(index):
    scene = make_scene(3, "val", index)
    rendering = render(scene, 21, 28)
    eye, world = np.array(scene.camera.eye), points(scene, rendering.depth)
    solid = rendering.surface // 8
    for number, primitive in enumerate(scene.primitives, start=1):
        on = solid == number
        assert np.abs(gap(primitive, world[on])).max(initial=0.0) < 1e-4, f"solid {number}: {primitive}"
        # Samples 2 to 3 cm apart up to the surface: a thinner thing may slip through here or there, not everywhere.
        share = np.linspace(0.0, 1.0, 250, endpoint=False)[1:, None, None, None]
        before = eye + share * (world - eye)
        assert gap(primitive, before).min() > -1e-4, f"solid {number} hides part of the view: {primitive}"
    room = np.abs(world - 0.5 * np.array(scene.size)) - 0.5 * np.array(scene.size)
    assert np.abs(room.max(axis=-1)[solid == 0]).max() < 1e-5


@pytest.mark.parametrize("index", range(4))
def test_normals_are_unit_vectors_facing_the_camera_and_agree_with_the_slope_of_the_depth(index):
    scene = make_scene(1, "train", index)
    rendering = render(scene, 60, 80)
    normals = rendering.normals.astype(np.float64)
    rays = directions(scene.camera, 60, 80)
    assert np.abs((normals**2).sum(axis=0) - 1).max() < 1e-5
    assert (normals * np.moveaxis(rays, -1, 0)).sum(axis=0).max() < 1e-6
    seen = rays * rendering.depth[..., None].astype(np.float64)
    right, below = seen[:-1, 1:] - seen[:-1, :-1], seen[1:, :-1] - seen[:-1, :-1]
    slope = np.cross(below, right)
    slope /= np.linalg.norm(slope, axis=-1, keepdims=True)
    surface = rendering.surface
    flat = (surface[:-1, :-1] == surface[:-1, 1:]) & (surface[:-1, :-1] == surface[1:, :-1])
    flat &= surface[:-1, :-1] % 8 < 6
    assert flat.mean() > 0.5
    agreement = (slope * np.moveaxis(normals[:, :-1, :-1], 0, -1)).sum(-1)[flat]
    assert agreement.min() > 0.9999


def test_a_solid_partly_behind_the_camera_is_seen_as_far_as_it_is_in_front():
    plank = Primitive(BOX, (2.0, 2.0, 1.2), (0.1, 2.0, 0.05))  # y from 0 to 4, passing 25 cm below the camera
    scene = scene_of(plank)
    rendering = render(scene, 60, 80)
    hit = rendering.semseg == 7
    rays = to_world(scene.camera, directions(scene.camera, 60, 80))
    depth = (1.25 - 1.5) / np.where(rays[..., 2] < 0, rays[..., 2], np.nan)
    top = (np.abs(rays[..., 0] * depth) < 0.1) & (1.0 + rays[..., 1] * depth < 4.0)
    assert top.sum() > 50 and hit[top].all() and hit[-1].any()
    np.testing.assert_allclose(rendering.depth[top], depth[top], rtol=1e-5)
