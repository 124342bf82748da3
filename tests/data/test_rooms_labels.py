"""Classes, edges and saliency."""

from dataclasses import replace

import numpy as np
import pytest

from seqca.data.rooms import ROOMS_CLASSES, Rendering, make_scene, render
from seqca.data.rooms.primitives import BOX, ELLIPSOID, Primitive
from seqca.data.rooms.render import surface_edges
from seqca.data.rooms.scene import Light
from seqca.data.rooms.textures import Material
from tests.data.scenes import points, scene_of


def edges_by_definition(surface: np.ndarray) -> np.ndarray:
    """The edge map pixel by pixel."""
    height, width = surface.shape
    edge = np.zeros((height, width), dtype=np.float32)
    for row in range(height):
        for column in range(width):
            for below, right in ((0, 1), (1, 0), (1, 1)):
                inside = row + below < height and column + right < width
                if inside and surface[row, column] != surface[row + below, column + right]:
                    edge[row, column] = 1
    return edge


@pytest.mark.parametrize("index", range(3))
def test_an_edge_is_where_the_surface_differs_east_south_or_south_east_and_nowhere_else(index):
    rendering = render(make_scene(5, "test", index), 37, 53)
    np.testing.assert_array_equal(rendering.edge, edges_by_definition(rendering.surface))


def test_the_last_row_and_column_have_no_neighbours_beyond_the_image():
    surface = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 2]], dtype=np.int32)
    np.testing.assert_array_equal(surface_edges(surface), [[0, 0, 0], [0, 1, 1], [0, 1, 0]])


def test_an_empty_room_has_edges_where_its_sides_meet_and_is_smooth_between():
    rendering = render(scene_of(), 60, 80)
    assert len(np.unique(rendering.surface)) == 5  # floor, ceiling, three walls
    corner = np.abs(np.diff(rendering.normals, axis=2)).max(axis=0) > 0.5
    assert (rendering.edge[:, :-1][corner] == 1).all() and corner.any()
    assert rendering.edge[28:32, 30:50].max() == 0  # in the middle of the wall ahead


def test_a_crease_inside_one_object_is_an_edge_and_a_change_of_texture_is_not():
    box = Primitive(BOX, (2.0, 3.0, 0.5), (0.4, 0.4, 0.5), (0.8, 0.6))
    rendering = render(scene_of(box), 90, 120)
    on = rendering.semseg == 7
    assert len(np.unique(rendering.surface[on])) == 3  # the top and two sides
    inside = on[:-1, :-1] & on[1:, :-1] & on[:-1, 1:] & on[1:, 1:]
    crease = rendering.edge[:-1, :-1][inside] == 1
    assert 0 < crease.sum() < 0.2 * inside.sum()


def test_textures_and_lights_change_the_image_and_no_label():
    scene = make_scene(0, "train", 0)
    squares = Material("checker", (0.9, 0.1, 0.1), (0.1, 0.1, 0.9))
    other = replace(scene, surfaces=(squares,) * 3, lights=(), ambient=(1.0, 1.0, 1.0))
    first, second = render(scene, 40, 56), render(other, 40, 56)
    assert (first.image != second.image).mean() > 0.5
    for label in ("semseg", "depth", "normals", "edge", "sal"):
        np.testing.assert_array_equal(getattr(first, label), getattr(second, label))


def test_a_solid_between_lamp_and_floor_throws_a_shadow_and_one_that_casts_none_does_not():
    def floor_below(casts: bool) -> float:
        board = Primitive(BOX, (2.0, 4.0, 2.0), (0.2, 0.2, 0.02), casts=casts)
        scene = replace(scene_of(board), lights=(Light((2.0, 4.0, 2.8), (2.0, 2.0, 2.0), 0.05),))
        rendering = render(scene, 60, 80)
        points_below = np.abs(points(scene, rendering.depth) - np.array([2.0, 4.0, 0.0])).max(axis=-1) < 0.4
        return float(rendering.image[points_below].mean() / rendering.image[rendering.semseg == 1].mean())

    assert floor_below(casts=True) < 0.85 < 1.0 < floor_below(casts=False)


def test_touching_objects_of_one_plane_are_separated_by_an_edge():
    left = Primitive(BOX, (1.7, 3.0, 0.5), (0.3, 0.3, 0.5), owner=0)
    right = Primitive(BOX, (2.3, 3.0, 0.5), (0.3, 0.3, 0.5), owner=1)
    rendering = render(scene_of(left, right), 60, 80)
    seam = np.flatnonzero(
        (rendering.semseg[50, :-1] == 7) & (rendering.semseg[50, 1:] == 7) & (rendering.edge[50, :-1] == 1)
    )
    assert (seam == 39).any()


def balls(*distances: float) -> list[Primitive]:
    """Balls of 40 cm side by side at the given distances from the camera, each an object."""
    return [
        Primitive(ELLIPSOID, (0.8 + 1.2 * i, 1.0 + distance, 1.2), (0.3, 0.3, 0.3), owner=i)
        for i, distance in enumerate(distances)
    ]


def test_the_foremost_object_and_what_is_hardly_farther_are_salient():
    rendering = render(scene_of(*balls(2.0, 2.3, 4.0)), 60, 80)
    owner = rendering.surface // 8 - 1
    np.testing.assert_array_equal(rendering.sal == 1, (owner == 0) | (owner == 1))
    assert set(np.unique(rendering.sal)) == {0.0, 1.0}


def test_what_is_part_of_the_room_or_tiny_is_not_salient():
    speck = Primitive(ELLIPSOID, (2.0, 1.6, 1.5), (0.02, 0.02, 0.02), owner=3)
    scene = scene_of(*balls(1.5, 2.5, 4.0), speck, owners=("door", "chair", "chair", "object"))
    rendering = render(scene, 60, 80)
    owner = rendering.surface // 8 - 1
    assert (owner == 3).any() and (owner == 0).any()
    np.testing.assert_array_equal(rendering.sal == 1, owner == 1)


def test_a_room_without_objects_has_nothing_salient():
    assert render(scene_of(), 24, 32).sal.max() == 0


def test_floor_ceiling_and_walls_are_told_apart_by_where_they_face():
    rendering = render(scene_of(), 60, 80)
    assert ROOMS_CLASSES[:3] == ("wall", "floor", "ceiling")
    up = -rendering.normals[1]  # the camera is level
    np.testing.assert_array_equal(rendering.semseg, np.select([up > 0.5, up < -0.5], [1, 2], 0))


@pytest.fixture(scope="module")
def training_scenes() -> list[Rendering]:
    """The first hundred, small."""
    return [render(make_scene(0, "train", index), 24, 32) for index in range(100)]


def test_every_class_is_seen_often_enough_to_be_learned(training_scenes):
    counts = np.stack([np.bincount(r.semseg.ravel(), minlength=len(ROOMS_CLASSES)) for r in training_scenes])
    pixels, scenes = counts.mean(axis=0) / (24 * 32), (counts > 0).mean(axis=0)
    assert pixels.min() > 0.005, dict(zip(ROOMS_CLASSES, pixels.round(4), strict=True))
    assert scenes.min() > 0.08, dict(zip(ROOMS_CLASSES, scenes.round(2), strict=True))


def test_depths_are_those_of_rooms_and_vary_within_and_between_scenes(training_scenes):
    depth = np.stack([r.depth for r in training_scenes])
    assert depth.min() > 0.5 and depth.max() < 9.0
    assert depth.std() > 0.8 and depth.mean(axis=(1, 2)).std() > 0.3


def test_colour_alone_does_not_tell_the_class(training_scenes):
    def pixels(renderings: list[Rendering]) -> tuple[np.ndarray, np.ndarray]:
        colours = np.concatenate([r.image.reshape(-1, 3) for r in renderings]) >> 5
        return colours.astype(np.int64) @ (64, 8, 1), np.concatenate([r.semseg.ravel() for r in renderings])

    classes = len(ROOMS_CLASSES)
    colour, label = pixels(training_scenes)
    votes = np.bincount(colour * classes + label, minlength=512 * classes).reshape(512, classes)
    colour, label = pixels([render(make_scene(0, "val", index), 24, 32) for index in range(30)])
    for weight in (np.ones(classes), 1 / votes.sum(axis=0)):  # the likeliest class, with and without its frequency
        guess = (votes * weight).argmax(axis=1)[colour]
        both = np.bincount(label[guess == label], minlength=classes)
        either = np.bincount(label, minlength=classes) + np.bincount(guess, minlength=classes) - both
        assert (both / np.maximum(either, 1)).mean() < 0.15
