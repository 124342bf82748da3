"""Panels show what they should, where they should."""

import numpy as np
import pytest
from matplotlib.text import Text

from seqca.inference.panel import LEGEND_COLUMNS, LEGEND_ROWS, draw_panel, save_panel, to_array
from seqca.tasks import get_task

NAMES = {"semseg": ["wall", "floor", "sofa", "lamp"]}


def maps(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    normals = generator.normal(size=(3, 24, 32))
    return {
        "semseg": np.repeat([0, 2], [18, 6])[:, None].repeat(32, 1),
        "depth": generator.uniform(1.5, 4.5, (1, 24, 32)).astype(np.float32),
        "normals": (normals / np.linalg.norm(normals, axis=0)).astype(np.float32),
        "edge": generator.uniform(0, 1, (1, 24, 32)).astype(np.float32),
    }


@pytest.fixture
def image() -> np.ndarray:
    return np.full((24, 32, 3), 200, np.uint8)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_every_task_has_a_tile_in_its_own_colours(image):
    predictions = maps()
    figure = draw_panel(image, predictions)
    pictures = {axes.get_title(): axes.images[0].get_array() for axes in figure.axes if axes.get_title()}
    assert list(pictures) == ["image", "semseg", "depth", "normals", "edge"]
    assert np.array_equal(pictures["image"], image)
    for name in ("semseg", "normals", "edge"):
        assert np.array_equal(pictures[name], get_task(name).colour(predictions[name]))


def test_the_legend_names_the_classes_that_occur_and_no_others(image):
    shown = texts(draw_panel(image, maps(), class_names=NAMES))
    assert "wall" in shown and "sofa" in shown
    assert "floor" not in shown and "lamp" not in shown


def test_classes_without_names_are_numbered(image):
    assert "class 2" in texts(draw_panel(image, maps(), class_names={}))


def test_a_legend_of_many_classes_keeps_to_the_largest(image):
    room = LEGEND_COLUMNS * LEGEND_ROWS
    classes = np.zeros((24, 32), np.int64)
    classes.ravel()[: room + 5] = np.arange(room + 5)
    shown = [text for text in texts(draw_panel(image, {"semseg": classes})) if text.startswith("class ")]
    assert len(shown) == room and "class 0" in shown


def test_depth_has_a_scale_in_metres_that_covers_prediction_and_truth(image):
    labels = maps(1)
    labels["depth"][0, 0, 0] = 7.25
    labels["depth"][0, 0, 1] = 255  # ignored
    figure = draw_panel(image, maps(), labels)
    scale = next(axes for axes in figure.axes if axes.get_xlabel() == "metres")
    assert scale.get_xlim()[1] == pytest.approx(7.25)
    assert scale.get_xlim()[0] == pytest.approx(min(maps()["depth"].min(), labels["depth"].min()))


def test_labels_make_a_second_row(image):
    titles = [axes.get_title() for axes in draw_panel(image, maps(), maps(1)).axes if axes.get_title()]
    assert titles.count("semseg") == titles.count("semseg (label)") == 1


@pytest.mark.parametrize("shape", [(24, 32), (32, 24), (1, 1)])
def test_a_saved_panel_is_the_drawn_one_and_leaves_nothing_else_behind(tmp_path, shape):
    from PIL import Image

    figure = draw_panel(np.zeros((*shape, 3), np.uint8), {"depth": np.ones((1, *shape), np.float32)})
    save_panel(figure, tmp_path / "panel.png")
    assert [path.name for path in tmp_path.iterdir()] == ["panel.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "panel.png").convert("RGB")), to_array(figure))
