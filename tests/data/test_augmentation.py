"""Random augmentation under both protocols."""

import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from seqca.data.augmentation import CROPS, RandomColours, RandomView, augmentation
from seqca.data.preparation import prepare, resize_vectors
from seqca.data.transforms import Distances, Vectors, augment
from seqca.labels import check_label
from seqca.protocols import Preparation, get_protocol
from tests.data.files import FOLDERS, open_dataset


def radial(size: int = 41) -> torch.Tensor:
    """Vectors that point away from the centre, (3, size, size)."""
    ticks = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)]), dim=0)


@pytest.mark.parametrize("angle", [-90.0, -20.0, 33.0, 90.0])
def test_vectors_turn_with_the_picture_so_that_a_radial_field_stays_radial(angle):
    field = radial()
    turned = functional.affine(Vectors(field), angle=angle, translate=[0, 0], scale=1.0, shear=[0.0, 0.0])
    inside = (turned != 255).all(0) & (field[:2].norm(dim=0) > 0.95)
    cosine = (turned.as_subclass(torch.Tensor) * field).sum(0)[inside]
    assert inside.sum() > 500 and cosine.min() > math.cos(math.radians(8)), "to the nearest pixel"


def test_a_quarter_turn_of_the_picture_turns_vectors_by_one():
    right = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 5, 5).clone()
    clockwise = functional.affine(Vectors(right), angle=90.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0])
    assert torch.allclose(clockwise[:, 2, 2].as_subclass(torch.Tensor), torch.tensor([0.0, 1, 0]), atol=1e-6)


def test_what_is_magnified_is_nearer_and_what_is_uncovered_has_no_depth():
    depth = torch.full((1, 8, 8), 3.0)
    depth[:, 4, 4] = 255
    larger = functional.affine(Distances(depth), angle=0.0, translate=[0, 0], scale=1.5, shear=[0.0, 0.0])
    assert set(larger.unique().tolist()) == {2.0, 255.0}
    smaller = functional.affine(Distances(depth), angle=0.0, translate=[0, 0], scale=0.5, shear=[0.0, 0.0])
    assert smaller[0, 0, 0] == 255 and smaller[0, 3, 3] == 6.0


@pytest.mark.parametrize(("dataset", "protocol"), FOLDERS)
def test_every_draw_gives_valid_labels_and_depends_on_its_key_alone(dataset, protocol):
    data = open_dataset(dataset, protocol)
    transform = augmentation(protocol, data.preparation)

    def draw(key: int) -> dict:
        return augment(data.stored(0), transform, 7, key)

    samples = [draw(key) for key in range(12)]
    again = draw(5)
    assert all(torch.equal(again[key], value) for key, value in samples[5].items() if key != "name")
    assert len({float(sample["image"].float().mean()) for sample in samples}) > 3
    for sample in samples:
        prepared = prepare(sample, protocol, data.preparation)
        assert prepared["image"].shape == (3, *data.preparation.size)
        for task, channels in data.tasks.items():
            valid = get_protocol(protocol).task(task).labels
            assert prepared[task].shape[-2:] == data.preparation.size
            check_label(
                prepared[task],
                valid,
                source=f"{dataset}, {protocol}",
                task=task,
                classes=channels if valid.integer else None,
            )


@pytest.mark.parametrize(("uncovered", "expected"), [(0, 0), (255, 255)])
def test_corners_that_a_rotation_uncovers_are_background_or_ignored_as_the_protocol_says(uncovered, expected):
    preparation = Preparation("x", (32, 32), scales=(0.5, 0.5), uniform=True, rotation=20, uncovered=uncovered)
    sample = {"image": torch.full((3, 32, 32), 9, dtype=torch.uint8), "semseg": torch.ones(32, 32, dtype=torch.int64)}
    turned = augment(sample, RandomView(preparation), 0)
    assert turned["semseg"][0, 0] == expected and turned["semseg"][16, 16] == 1
    assert (turned["image"][:, 0, 0] == 0).all()


def test_only_pascal_under_mtinet_makes_uncovered_corners_background():
    assert get_protocol("mtinet").preparation["pascal"].uncovered == 0
    assert get_protocol("invpt").preparation["pascal"].uncovered == 255


def test_a_crop_shows_more_than_one_class_where_there_is_such_a_crop():
    classes = torch.zeros(40, 40, dtype=torch.int64)
    classes[:, 20:] = 1
    sample = {"image": torch.zeros(3, 40, 40, dtype=torch.uint8), "semseg": classes}
    crop = augmentation("invpt", Preparation("x", (20, 20), scales=(1.0, 1.0), uniform=True))
    alone = [len(augment(sample, crop, key)["semseg"].unique()) for key in range(60)]
    assert CROPS == 10 and sum(count == 2 for count in alone) >= 58, "one draw in four shows both"


def test_resized_vectors_are_of_unit_length_and_not_invented_beside_missing_ones():
    field = radial(12)[None].clone()
    field[..., :5] = 255
    resized = resize_vectors(field, (30, 34))
    valid = (resized != 255).all(1)
    assert torch.allclose(resized.norm(dim=1)[valid], torch.ones(int(valid.sum())))
    nearest = torch.nn.functional.interpolate(field, (30, 34), mode="nearest")
    assert torch.equal(valid, (nearest != 255).all(1))
    assert (resized * nearest).sum(1)[valid].min() > 0.9


def test_colours_change_and_labels_do_not():
    sample = {"image": torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8), "depth": torch.rand(1, 8, 8)}
    changed = [augment(sample, RandomColours(), key) for key in range(10)]
    assert all(torch.equal(one["depth"], sample["depth"]) and one["image"].dtype == torch.uint8 for one in changed)
    assert sum(not torch.equal(one["image"], sample["image"]) for one in changed) > 6
    assert isinstance(RandomColours()(tv_tensors.Image(sample["image"])), tv_tensors.Image)


def test_the_script_draws_the_picture_of_the_page(tmp_path, monkeypatch):
    picture = tmp_path / "augmentation.png"
    monkeypatch.setattr(sys, "argv", ["augmentation.py", f"--out={picture}"])
    docs = Path(__file__).parents[2] / "docs"
    runpy.run_path(str(docs / "scripts" / "augmentation.py"), run_name="__main__")
    with Image.open(picture) as drawn, Image.open(docs / "images" / "augmentation.png") as shown:
        assert drawn.size == shown.size
