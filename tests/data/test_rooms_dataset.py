"""`Rooms` as a torch data set, and its command line."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from seqca.data import ROOMS_CLASSES, Rooms, normalise
from seqca.data.rooms import __main__ as command
from seqca.labels import check_label
from seqca.tasks import get_task

ALL = ("semseg", "depth", "normals", "edge", "sal")


def test_a_sample_holds_the_image_the_labels_asked_for_and_its_name():
    rooms = Rooms("val", 5, (40, 56), seed=3, tasks=ALL)
    sample = rooms[4]
    assert list(sample) == ["image", *ALL, "name"]
    assert sample["name"] == "rooms-val-000004"
    shapes = {"image": (3, 40, 56), "semseg": (40, 56), "normals": (3, 40, 56)}
    for key in ("image", *ALL):
        assert sample[key].shape == shapes.get(key, (1, 40, 56))
        assert sample[key].dtype == (torch.int64 if key == "semseg" else torch.float32)
        assert sample[key].is_contiguous()
    torch.testing.assert_close(sample["image"], normalise(rooms.rendering(4).image))


def test_tasks_are_those_asked_for_with_their_channels():
    assert Rooms("train", 1).tasks == {"semseg": len(ROOMS_CLASSES), "depth": 1, "normals": 3, "edge": 1}
    rooms = Rooms("train", 1, (16, 16), tasks=("sal", "depth"))
    assert list(rooms.tasks.items()) == [("sal", 1), ("depth", 1)]
    assert list(rooms[0]) == ["image", "sal", "depth", "name"]


def test_a_scene_is_independent_of_length_and_tasks():
    short = Rooms("train", 3, (24, 32), tasks=("depth",))[2]
    long = Rooms("train", 1000, (24, 32), tasks=ALL)[2]
    assert torch.equal(short["image"], long["image"]) and torch.equal(short["depth"], long["depth"])


def test_labels_are_within_the_ranges_of_their_tasks():
    rooms = Rooms("test", 3, (48, 64), tasks=ALL)
    for sample in (rooms[i] for i in range(3)):
        for task, channels in rooms.tasks.items():
            classes = channels if task == "semseg" else None
            check_label(sample[task], get_task(task).labels, source=sample["name"], task=task, classes=classes)


def test_a_loop_over_the_data_set_ends():
    assert [sample["name"] for sample in Rooms("test", 2, (8, 8))] == ["rooms-test-000000", "rooms-test-000001"]


def test_worker_processes_give_the_same_samples():
    rooms = Rooms("train", 4, (16, 24), tasks=("semseg",))
    loader = torch.utils.data.DataLoader(rooms, batch_size=2, num_workers=1)
    batches = list(loader)
    assert torch.equal(torch.cat([b["image"] for b in batches]), torch.stack([rooms[i]["image"] for i in range(4)]))
    assert batches[1]["name"] == ["rooms-train-000002", "rooms-train-000003"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"split": "dev"}, ValueError, "split: got 'dev', expected one of train, val, test"),
        ({"tasks": ("depth", "flow")}, ValueError, "tasks: got 'flow', expected some of "),
        ({"tasks": ()}, ValueError, "at least one name"),
        ({"tasks": ("depth", "depth")}, ValueError, "none twice"),
        ({"tasks": "depth"}, TypeError, "single string 'depth'"),
        ({"size": (96, 7)}, ValueError, r"size: got \(96, 7\), expected two integers .*at least 8"),
        ({"size": (96.0, 128)}, ValueError, r"size: got .*, expected two integers"),
        ({"size": (96,)}, ValueError, r"size: got .*, expected two integers"),
        ({"length": 0}, ValueError, "length: got 0, expected an integer from 1"),
        ({"seed": -1}, ValueError, "seed: got -1, expected an integer from 0"),
        ({"seed": 2**32}, ValueError, "seed: got 4294967296, expected an integer from 0 to 4294967295"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        Rooms(**{"split": "train", "length": 2, **change})


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_outside_the_data_set_is_refused(index):
    with pytest.raises(IndexError, match=f"index: got {index}, expected 0 to 1"):
        Rooms("train", 2)[index]


def test_the_preview_shows_image_and_labels_side_by_side(tmp_path, monkeypatch, capsys):
    target = tmp_path / "new" / "sheet.png"
    argv = ["rooms", "--preview", str(target), "--count", "2", "--size", "24", "32"]
    monkeypatch.setattr(sys, "argv", argv)
    command.main()
    with Image.open(target) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (2 * 24, 6 * 32, 3)
    np.testing.assert_array_equal(pixels[:24, :32], Rooms("train", 2, (24, 32)).rendering(0).image)
    assert str(target) in capsys.readouterr().out and list(target.parent.iterdir()) == [target]


def test_the_speed_report_lists_every_class(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rooms", "--speed", "--count", "2", "--size", "16", "16"])
    command.main()
    report = capsys.readouterr().out
    assert "scenes/s at 16x16" in report
    assert all(name in report for name in ROOMS_CLASSES)


def test_the_command_line_refuses_a_bad_count_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rooms", "--speed", "--count", "0"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2 and "length: got 0, expected an integer from 1" in capsys.readouterr().err
