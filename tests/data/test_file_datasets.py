"""NYUD-v2 and PASCAL-Context are read as the two published protocols read them, and bad files are named."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from seqca.data import NYUDv2, PASCALContext
from seqca.data.archives import identify
from seqca.labels import check_label
from seqca.protocols import PROTOCOLS, get_protocol
from tests.data.files import ARCHIVES, FOLDERS, copy, open_dataset, root


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("dataset", "protocol"), FOLDERS)
def test_what_is_loaded_is_what_the_published_loaders_return(dataset, protocol, split):
    data = open_dataset(dataset, protocol, split)
    with np.load(ARCHIVES / f"expected_{protocol}.npz") as expected:
        names = {key.split("/")[2] for key in expected.files if key.startswith(f"{dataset}/{split}/")}
        assert set(data.ids) == names
        for index, name in enumerate(data.ids):
            arrays = data.load(index)
            assert arrays["name"] == name
            for task in ("image", *data.tasks):
                stored = expected[f"{dataset}/{split}/{name}/{task}"]
                array = arrays[task].transpose(1, 2, 0) if task in ("depth", "edge", "sal", "normals") else arrays[task]
                array = array[..., 0] if array.shape[-1] == 1 else array
                assert array.shape == stored.shape
                assert np.abs(array.astype(np.float64) - stored).max() <= (1e-6 if task == "normals" else 0), task


@pytest.mark.parametrize(("dataset", "protocol"), FOLDERS)
def test_a_sample_has_the_protocol_s_size_and_valid_labels(dataset, protocol):
    data = open_dataset(dataset, protocol)
    sample = data[0]
    size = get_protocol(protocol).preparation[dataset].size
    assert sample["image"].shape == (3, *size) and sample["image"].dtype == torch.float32
    for task, channels in data.tasks.items():
        assert sample[task].shape[-2:] == size
        definition = get_protocol(protocol).task(task)
        classes = channels if definition.labels.integer else None
        check_label(sample[task], definition.labels, source="a test", task=task, classes=classes)


def test_padding_is_mean_colour_and_has_no_label():
    sample = open_dataset("nyud", "invpt")[0]
    assert all((sample[task][..., 0, :] == 255).all() for task in ("semseg", "depth", "normals", "edge"))
    assert (sample["image"][:, 0] == 0).all()
    top, left = (448 - 34) // 2, (576 - 45) // 2
    assert not (sample["image"][:, top, left : left + 45] == 0).all()
    assert (sample["edge"][:, top : top + 34, left : left + 45] != 255).all()


def test_an_image_without_a_person_has_no_label_of_human_parts():
    data = open_dataset("pascal", "mtinet")
    shown = {sample["name"]: bool((sample["human_parts"] != 255).any()) for sample in (data[0], data[1])}
    assert shown == {"2008_000008": True, "2008_000015": False}


@pytest.mark.parametrize(("dataset", "protocol"), FOLDERS)
def test_an_archive_is_recognised_whatever_its_folder_is_called(dataset, protocol, tmp_path):
    folder = copy(dataset, protocol, tmp_path)
    assert identify(folder).dataset == dataset
    assert len(open_dataset(dataset, protocol, folder=folder)) == 2


def test_the_archive_of_the_other_protocol_is_refused_with_the_name_of_the_right_one():
    with pytest.raises(ValueError, match=r'holds NYUDv2 .*expected NYUD_MT .*protocol="invpt" reads this one'):
        NYUDv2(root("nyud", "invpt"), "train", ["semseg"])
    with pytest.raises(ValueError, match=r"holds NYUD_MT .*expected NYUDv2 "):
        NYUDv2(root("nyud", "mtinet"), "train", ["semseg"], protocol="invpt")
    with pytest.raises(ValueError, match=r"holds PASCAL_MT .*expected NYUD_MT"):
        NYUDv2(root("pascal", "mtinet"), "train", ["semseg"])


def test_a_folder_above_or_beside_the_archive_is_answered_with_where_it_is(tmp_path):
    folder = copy("pascal", "mtinet", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"or is it {folder}"):
        PASCALContext(tmp_path, "train", ["semseg"])
    with pytest.raises(FileNotFoundError, match="no folder, expected PASCAL_MT"):
        PASCALContext(tmp_path / "nowhere", "train", ["semseg"])


@pytest.mark.parametrize(
    ("task", "array", "message"),
    [
        ("depth", np.full((36, 48), -1.0, np.float32), "got -1.0 at row 0, column 0"),
        ("depth", np.full((36, 48), 4000, np.int64), "got 4000.0 .*expected finite values from 0 to 254"),
        ("normals", np.full((36, 48, 3), 2.0, np.float32), "got 2.0"),
        ("normals", np.zeros((36, 48), np.float32), "expected numbers in 3 dimensions"),
        ("edge", np.full((36, 48), np.nan, np.float32), "got nan"),
    ],
)
def test_an_array_out_of_range_is_refused_with_file_and_value(task, array, message, tmp_path):
    folder = copy("nyud", "mtinet", tmp_path)
    np.save(folder / task / "0004.npy", array)
    with pytest.raises(ValueError, match=rf"{task}/0004\.npy.*{message}"):
        open_dataset("nyud", "mtinet", folder=folder).load(0)


@pytest.mark.parametrize(
    ("dataset", "file", "message"),
    [("nyud", "segmentation/0004.png", "got 41"), ("pascal", "semseg/VOC12/2008_000015.png", "got 41")],
)
def test_a_class_out_of_range_is_refused_with_file_and_value(dataset, file, message, tmp_path):
    folder = copy(dataset, "mtinet", tmp_path)
    with Image.open(folder / file) as picture:
        size = picture.size
    Image.fromarray(np.full(size[::-1], 41, np.uint8)).save(folder / file)
    data = open_dataset(dataset, "mtinet", folder=folder)
    with pytest.raises(ValueError, match=rf"{file}.*{message}"):
        data.load(data.ids.index(file.split("/")[-1].removesuffix(".png")))


def test_an_unknown_part_of_a_person_is_refused_with_file_and_name(tmp_path):
    folder = copy("pascal", "mtinet", tmp_path)
    part = np.array([("tail", np.ones((35, 36), np.uint8))], dtype=[("part_name", "O"), ("mask", "O")])
    thing = np.array(
        [("person", 15, np.ones((35, 36), np.uint8), part)],
        dtype=[("class", "O"), ("class_ind", "O"), ("mask", "O"), ("parts", "O")],
    )
    savemat(folder / "human_parts" / "2008_000008.mat", {"anno": {"imname": "x", "objects": thing}})
    with pytest.raises(ValueError, match=r"2008_000008\.mat: got the human part 'tail'"):
        open_dataset("pascal", "mtinet", folder=folder).load(0)


@pytest.mark.parametrize("file", ["images/0004.jpg", "depth/0004.npy", "segmentation/0004.png"])
def test_a_file_that_is_missing_or_broken_is_named(file, tmp_path):
    folder = copy("nyud", "mtinet", tmp_path)
    (folder / file).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=file):
        open_dataset("nyud", "mtinet", folder=folder).load(0)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file}: got no file, expected one"):
        open_dataset("nyud", "mtinet", folder=folder).load(0)


def test_a_label_of_another_size_than_its_image_is_resized_as_both_loaders_do(tmp_path):
    folder = copy("nyud", "mtinet", tmp_path)
    depth = np.load(folder / "depth" / "0004.npy")
    np.save(folder / "depth" / "0004.npy", depth.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(
        open_dataset("nyud", "mtinet", folder=folder).load(0)["depth"], open_dataset("nyud", "mtinet").load(0)["depth"]
    )


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_broken_in_a_matlab_file_the_file_is_named(seed, tmp_path):
    folder = copy("pascal", "mtinet", tmp_path)
    path = folder / "human_parts" / "2008_000008.mat"
    content = bytearray(path.read_bytes())
    generator = np.random.default_rng(seed)
    for position in generator.integers(len(content), size=8):
        content[position] = generator.integers(256)
    path.write_bytes(content)
    data = open_dataset("pascal", "mtinet", folder=folder)
    try:
        data.load(data.ids.index("2008_000008"))
    except ValueError as error:
        assert str(path) in str(error)


def test_vectors_are_of_unit_length_under_mtinet_even_where_nothing_is_resized(tmp_path):
    folder = copy("nyud", "mtinet", tmp_path)
    path = folder / "normals" / "0004.npy"
    np.save(path, np.load(path) * np.float32(0.9))
    data = NYUDv2(folder, "train", ["normals"], size=(36, 48))
    normals = data[data.ids.index("0004")]["normals"]
    valid = (normals != 255).all(0)
    assert 0 < valid.sum() < valid.numel()
    assert torch.allclose(normals.norm(dim=0)[valid], torch.ones(int(valid.sum())))


def test_under_invpt_a_size_below_the_picture_is_refused_with_the_sample():
    data = NYUDv2(root("nyud", "invpt"), "train", ["depth"], "invpt", size=(32, 64))
    with pytest.raises(ValueError, match=rf"size: got \(32, 64\), expected at least \(34, 45\) as of {data.ids[0]}"):
        data[0]


def test_the_oldest_archive_is_recognised_whatever_its_edges_are(tmp_path):
    folder = copy("nyud", "invpt", tmp_path)
    for path in (folder / "depth").iterdir():
        path.rename(path.with_suffix(".mat"))
    with pytest.raises(ValueError, match=r"holds the older NYUD_MT .*expected NYUDv2 "):
        NYUDv2(folder, "train", ["semseg"], protocol="invpt")


def test_reading_writes_nothing_into_the_folder(tmp_path):
    folder = copy("pascal", "invpt", tmp_path)
    before = sorted(folder.rglob("*"))
    _ = open_dataset("pascal", "invpt", folder=folder)[0]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", ["semseg", "sal"]), "tasks: got .*expected at least one of semseg, depth, normals, edge"),
        (("train", []), "tasks: got"),
        (("trian", ["semseg"]), "split: got 'trian', expected train, val or test"),
        (("train", ["semseg"], "mti"), "protocol: got 'mti', expected one of mtinet, invpt"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NYUDv2(root("nyud", "mtinet"), *arguments)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_data_set_says_what_its_tasks_are_and_how_they_are_scored(protocol):
    data = open_dataset("pascal", protocol)
    assert data.tasks == {
        "semseg": 21,
        "human_parts": 7,
        "sal": 1 if protocol == "mtinet" else 2,
        "normals": 3,
        "edge": 1,
    }
    assert {task: len(names) for task, names in data.class_names.items()} == {"semseg": 21, "human_parts": 7}
    assert data.scores["edge"].name == "odsF"
    assert data.scores["edge"].options == {"max_distance": 0.0075, "protocol": protocol}
    assert open_dataset("nyud", protocol).scores["edge"].options["max_distance"] == 0.011
    assert data.scores["sal"].name == {"mtinet": "mIoU", "invpt": "maxF"}[protocol]
