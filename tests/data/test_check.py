"""`seqca data check` on the small archives and on broken copies of them."""

import numpy as np
import pytest
from PIL import Image

from seqca.cli import main
from tests.data.files import FOLDERS, copy, root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("dataset", "protocol"), FOLDERS)
def test_a_good_archive_passes_with_statistics_of_every_task_and_a_sheet(dataset, protocol, tmp_path, capsys):
    before = sorted(root(dataset, protocol).rglob("*"))
    assert main(["data", "check", f"--data={dataset}", f"--protocol={protocol}", str(root(dataset, protocol))]) == 0
    out = capsys.readouterr().out
    name = {"nyud_mtinet": "NYUD_MT", "nyud_invpt": "NYUDv2", "pascal": "PASCAL_MT"}[FOLDERS[dataset, protocol]]
    assert f"holds {name}:" in out and "Everything that was read is as it should be" in out
    published = {"nyud": 795, "pascal": 4998}[dataset]
    assert f"train: 2 samples, where the published split has {published}" in out
    assert "semseg" in out and "% of the pixels have a label" in out and "absent:" in out
    with Image.open(tmp_path / "data_check_val.png") as sheet:
        assert sheet.size[0] > 400 and len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 50
    assert sorted(root(dataset, protocol).rglob("*")) == before


def test_files_are_counted_by_folder_and_those_that_no_split_names(tmp_path, capsys):
    folder = copy("pascal", "mtinet", tmp_path)
    (folder / "JPEGImages" / "2099_000001.jpg").write_bytes(b"")
    assert main(["data", "check", str(folder)]) == 0
    out = capsys.readouterr().out
    images, parts = (len(list((folder / name).iterdir())) for name in ("JPEGImages", "human_parts"))
    assert f"  JPEGImages: {images} files, 1 of which no split names\n" in out
    assert f"  human_parts: {parts} files\n" in out


def test_nothing_is_written_into_the_folder_even_where_it_is_asked_for(tmp_path, capsys, monkeypatch):
    folder = copy("nyud", "mtinet", tmp_path)
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as end:
        main(["data", "check", f"--sheet={folder / 'sheets' / 'x.png'}", str(folder)])
    assert end.value.code == 2
    assert f"--sheet: got {folder / 'sheets' / 'x.png'}, expected a file outside {folder}" in capsys.readouterr().err
    monkeypatch.chdir(folder / "depth")  # where the sheet goes without --sheet
    with pytest.raises(SystemExit):
        main(["data", "check", ".."])
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("nyud", "images/0004.png"), ("nyud", "normals/0004.png"), ("nyud", "edge/0004.png"),
        ("nyud", "depth/0004.npy"), ("pascal", "human_parts/2008_000008.mat"),
        ("pascal", "pascal-context/trainval/2008_000008.mat"), ("pascal", "sal_distill/2008_000008.png"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_file_that_cannot_be_read_is_told_by_name(dataset, file, damage, tmp_path, capsys):
    folder = copy(dataset, "invpt", tmp_path)
    content = (folder / file).read_bytes()
    half = len(content) // 2
    (folder / file).write_bytes(content[:half] if damage == "cut off" else bytes(half) + content[half:])
    assert main(["data", "check", "--protocol=invpt", str(folder)]) == 1
    assert f"{folder / file}: " in capsys.readouterr().err


def test_missing_files_labels_out_of_range_and_other_sizes_are_told_by_file(tmp_path, capsys):
    folder = copy("nyud", "mtinet", tmp_path)
    (folder / "images" / "0001.jpg").unlink()
    np.save(folder / "depth" / "0004.npy", np.full((36, 48), -2.0, np.float32))
    Image.fromarray(np.full((36, 48), 77, np.uint8)).save(folder / "segmentation" / "0017.png")
    np.save(folder / "edge" / "0017.npy", np.zeros((30, 48), np.float32))
    assert main(["data", "check", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "4 problems" in error
    for told in (
        "images/0001.jpg: got no file", "depth/0004.npy: depth: got -2.0",
        "segmentation/0017.png: semseg: got 77",
        "edge/0017.npy: got a size of (30, 48), expected the image's (36, 48)",
    ):  # fmt: skip
        assert told in error


def test_a_split_that_names_a_sample_twice_or_none_is_told(tmp_path, capsys):
    folder = copy("pascal", "mtinet", tmp_path)
    train, val = (folder / "ImageSets" / "Context" / f"{split}.txt" for split in ("train", "val"))
    train.write_text(train.read_text() + "2008_000008\n")
    val.write_text("")
    assert main(["data", "check", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "2008_000008 occurs more than once" in error and f"{val}: got no names" in error


def test_exchanged_archives_are_refused(capsys):
    assert main(["data", "check", "--protocol=mtinet", str(root("nyud", "invpt"))]) == 1
    captured = capsys.readouterr()
    assert "holds NYUDv2" in captured.out and "read by protocol invpt" in captured.out
    assert "expected data nyud under protocol mtinet, got this archive" in captured.err
    assert main(["data", "check", "--data=nyud", str(root("pascal", "mtinet"))]) == 1


def test_a_folder_without_an_archive_is_refused(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "none of the published archives, expected NYUD_MT, NYUDv2 or PASCAL_MT" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 1


def test_quick_reads_some_samples_from_first_to_last(tmp_path, capsys, monkeypatch):
    from seqca.data import check

    monkeypatch.setattr(check, "QUICK", 1)
    folder = copy("nyud", "mtinet", tmp_path)
    (folder / "depth" / "0017.npy").unlink()
    assert main(["data", "check", "--quick", str(folder)]) == 0
    assert main(["data", "check", str(folder)]) == 1


def test_the_only_thing_to_do_with_data_is_to_check_it(capsys):
    assert main(["data"]) == 2
    assert "got nothing, expected check" in capsys.readouterr().err
