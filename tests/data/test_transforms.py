"""Augmentation moves an image and its labels alike."""

import dataclasses

import pytest
import torch
from torchvision.transforms.v2 import ColorJitter, Compose, RandomHorizontalFlip, RandomVerticalFlip

from seqca import tasks
from seqca.data.transforms import augment, derive_seed
from seqca.tasks import get_task, register_task


@pytest.fixture
def sample() -> dict:
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(3, 6, 8, generator=generator), dim=0)
    normals[:, 2, 1] = 255
    return {
        "image": torch.rand(3, 6, 8, generator=generator),
        "semseg": torch.randint(0, 5, (6, 8), generator=generator),
        "depth": torch.rand(1, 6, 8, generator=generator),
        "normals": normals,
        "name": "scene 3",
    }


def test_a_flip_mirrors_image_and_labels_and_turns_the_x_of_normals_around(sample):
    flipped = augment(sample, RandomHorizontalFlip(1.0), 0)
    for name in ("image", "semseg", "depth"):
        assert torch.equal(flipped[name], sample[name].flip(-1)), name
        assert type(flipped[name]) is torch.Tensor
    expected = sample["normals"].flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None]
    expected[:, 2, 6] = 255
    assert torch.equal(flipped["normals"], expected)
    assert flipped["name"] == "scene 3"


def test_a_second_task_of_vectors_is_mirrored_rightly_without_being_known_by_name(sample, monkeypatch):
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    register_task(dataclasses.replace(get_task("normals"), name="flow", channels=2))
    sample["flow"] = sample["normals"][:2].clone()
    flipped = augment(sample, RandomHorizontalFlip(1.0), 0)
    assert torch.equal(flipped["flow"], flipped["normals"][:2])
    assert not torch.equal(flipped["flow"], sample["flow"].flip(-1))


def test_turning_the_picture_upside_down_negates_the_second_component_of_vectors(sample):
    turned = augment(sample, RandomVerticalFlip(1.0), 0)
    expected = sample["normals"].flip(-2) * torch.tensor([1.0, -1, 1])[:, None, None]
    expected[:, 3, 1] = 255
    assert torch.equal(turned["normals"], expected)


def test_ignored_normals_stay_ignored_in_all_channels_when_flipped(sample):
    flipped = augment(sample, RandomHorizontalFlip(1.0), 0)
    assert (flipped["normals"][:, 2, 6] == 255).all()
    assert (flipped["normals"] == 255).sum() == 3


def test_augmenting_leaves_the_given_sample_as_it_was(sample):
    before = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in sample.items()}
    augment(sample, RandomHorizontalFlip(1.0), 0)
    assert all(torch.equal(sample[name], before[name]) for name in ("image", "semseg", "depth", "normals"))


def test_a_photometric_transform_leaves_the_labels_alone(sample):
    changed = augment(sample, Compose([ColorJitter(brightness=(0.5, 0.6))]), 0)
    assert not torch.equal(changed["image"], sample["image"])
    assert all(torch.equal(changed[name], sample[name]) for name in ("semseg", "depth", "normals"))


def test_what_is_drawn_depends_on_the_key_alone_and_leaves_the_generator_of_training_as_it_was(sample):
    half = RandomHorizontalFlip(0.5)

    def flips() -> list[bool]:
        return [not torch.equal(augment(sample, half, 7, k)["image"], sample["image"]) for k in range(40)]

    torch.manual_seed(1)
    first, state = flips(), torch.get_rng_state()
    torch.manual_seed(2)
    assert flips() == first
    assert 10 < sum(first) < 30
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_neighbouring_keys_give_unrelated_seeds():
    seeds = {derive_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert derive_seed(1, 12) != derive_seed(11, 2)
    assert max(seeds) < 2**63
