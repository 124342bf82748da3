"""`seqca predict` replaces no file but its own, and one bad output costs no other."""

import errno
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from seqca.inference import output, predict
from seqca.inference.output import ForeignFile, is_signed, npz_bytes, write_signed
from seqca.inference.predict import DONE, NOTHING_DONE, SOME_FAILED, main


class Depths(torch.nn.Module):
    """Takes the place of the network, which is tested elsewhere."""

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"depth": images.mean(1, keepdim=True) + 3}


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "load_network", lambda path: (Depths(), {}))


def picture(path: Path, shade: int = 200) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), (shade, shade // 2, 3)).save(path)
    return path


def run(images: Path | list[Path], out: Path) -> int:
    paths = images if isinstance(images, list) else [images]
    return main(["--ckpt", "any.ckpt", "--images", *map(str, paths), "--out", str(out), "--device", "cpu"])


def refused(images: Path | list[Path], out: Path) -> bool:
    with pytest.raises(SystemExit) as stopped:
        run(images, out)
    return stopped.value.code == 2


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def through_a_link(album: Path) -> tuple[list[Path], Path]:
    link = album.parent / "link"
    link.symlink_to(album, target_is_directory=True)
    return [album], link


def pictures_through_a_link(album: Path) -> tuple[list[Path], Path]:
    link = album.parent / "link"
    link.symlink_to(album, target_is_directory=True)
    return [link], album


def a_linked_picture(album: Path) -> tuple[list[Path], Path]:
    link = album.parent / "chosen" / "other name.png"
    link.parent.mkdir()
    link.symlink_to(album / "sea.png")
    return [link], album


OVERLAPS: dict[str, Callable[[Path], tuple[list[Path], Path]]] = {
    "the folder itself": lambda album: ([album], album),
    "by dots": lambda album: ([album], album / "2020" / ".."),
    "a picture in it": lambda album: ([album / "sea.png"], album),
    "the folder through a link": through_a_link,
    "pictures through a link": pictures_through_a_link,
    "a link to a picture in it": a_linked_picture,
    "a folder below": lambda album: ([album], album / "2020"),
    "a folder above": lambda album: ([album / "2020"], album),
    "a folder of other photographs": lambda album: ([album], album.parent / "others"),
}


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_photographs_are_never_replaced(tmp_path, overlap):
    album = tmp_path / "album"
    for path in ("album/sea.png", "album/2020/sea.png", "others/sea.png"):
        picture(tmp_path / path, shade=len(path))
    before = contents(tmp_path)
    images, out = OVERLAPS[overlap](album)
    assert refused(images, out)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after.keys() - before.keys() if name.endswith((".npz", ".part"))]


def test_a_folder_below_the_pictures_is_fine_and_its_panels_are_no_pictures(tmp_path, capsys):
    picture(tmp_path / "sea.png")
    for _ in range(2):
        assert run(tmp_path, tmp_path / "out") == DONE
        assert "1 of 1 done" in capsys.readouterr().out
    assert run(tmp_path, tmp_path / "elsewhere") == DONE
    assert "1 of 1 done" in capsys.readouterr().out


def test_a_second_run_replaces_what_the_first_wrote(tmp_path):
    picture(tmp_path / "in" / "sea.png", 10)
    assert run(tmp_path / "in", tmp_path / "out") == DONE
    first = contents(tmp_path / "out")
    picture(tmp_path / "in" / "sea.png", 250)
    assert run(tmp_path / "in", tmp_path / "out") == DONE
    second = contents(tmp_path / "out")
    assert first.keys() == second.keys() == {"sea.png", "sea.npz"}
    assert all(first[name] != second[name] for name in first)


@pytest.mark.parametrize("name", ["sea.png", "sea.npz"])
@pytest.mark.parametrize("change", ["retouched", "cut", "linked", "a folder", "empty", "of another program"])
def test_what_somebody_made_of_an_output_is_his(tmp_path, name, change):
    picture(tmp_path / "in" / "sea.png")
    assert run(tmp_path / "in", tmp_path / "out") == DONE
    path = tmp_path / "out" / name
    data = path.read_bytes()
    path.unlink()
    if change == "retouched":
        path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    elif change == "cut":
        path.write_bytes(data[:-1])
    elif change == "linked":
        (tmp_path / "kept").write_bytes(data)
        path.symlink_to(tmp_path / "kept")
    elif change == "a folder":
        path.mkdir()
    elif change == "empty":
        path.touch()
    elif name == "sea.png":
        picture(path)
    else:
        np.savez(path, depth=np.ones(3))
    before = contents(tmp_path)
    assert refused(tmp_path / "in", tmp_path / "out")
    assert contents(tmp_path) == before and path.is_symlink() == (change == "linked")


def test_a_hard_link_to_an_output_keeps_what_it_holds(tmp_path):
    picture(tmp_path / "in" / "sea.png", 10)
    assert run(tmp_path / "in", tmp_path / "out") == DONE
    os.link(tmp_path / "out" / "sea.png", tmp_path / "kept.png")
    before = (tmp_path / "kept.png").read_bytes()
    picture(tmp_path / "in" / "sea.png", 250)
    assert run(tmp_path / "in", tmp_path / "out") == DONE
    assert (tmp_path / "kept.png").read_bytes() == before != (tmp_path / "out" / "sea.png").read_bytes()


@pytest.mark.parametrize("links", [True, False], ids=["with links", "a file system without links"])
def test_a_file_that_appears_while_the_network_computes_is_not_replaced(tmp_path, monkeypatch, capsys, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    picture(tmp_path / "in" / "sea.png")
    picture(tmp_path / "in" / "shore.png")
    compute = Depths.predict

    def slow(self: Depths, images: Tensor) -> dict[str, Tensor]:
        if not (tmp_path / "out" / "sea.png").exists():
            (tmp_path / "out" / "sea.png").write_text("precious")
        return compute(self, images)

    monkeypatch.setattr(Depths, "predict", slow)
    assert run(tmp_path / "in", tmp_path / "out") == SOME_FAILED
    assert (tmp_path / "out" / "sea.png").read_text() == "precious"
    assert sorted(contents(tmp_path / "out")) == ["sea.png", "shore.npz", "shore.png"]
    printed = capsys.readouterr()
    assert "which seqca predict did not write" in printed.err and "1 of 2 done" in printed.out


def test_signed_files_are_whole_files_of_their_kind(tmp_path):
    picture(tmp_path / "in" / "sea.png")
    assert run(tmp_path / "in", tmp_path / "out") == DONE
    panel, arrays = tmp_path / "out" / "sea.png", tmp_path / "out" / "sea.npz"
    assert is_signed(panel) and is_signed(arrays)
    with Image.open(panel) as image:
        image.verify()
    assert zipfile.ZipFile(arrays).testzip() is None
    assert np.load(arrays)["depth"].shape == (1, 7, 9)
    assert panel.stat().st_mode == picture(tmp_path / "usual.png").stat().st_mode


def test_of_two_that_write_one_name_at_once_neither_harms_a_stranger(tmp_path):
    data = npz_bytes({"depth": np.ones((1, 2, 2), np.float32)})
    write_signed({tmp_path / "a.npz": data})
    write_signed({tmp_path / "a.npz": data})
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(ForeignFile):
        write_signed({tmp_path / "b.npz": data})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_a_name_that_is_too_long_is_skipped_and_one_that_just_fits_is_not(tmp_path, capsys):
    fits = picture(tmp_path / "in" / f"{'x' * 251}.png")
    short = picture(tmp_path / "in" / "short.ppm")
    assert run([fits, short], tmp_path / "out") == DONE
    assert len(list((tmp_path / "out").iterdir())) == 4
    # A name may be as long as 255 bytes, and with a number in front of its ending it is longer.
    longer = picture(tmp_path / "other" / f"{'x' * 251}.png")
    assert run([fits, longer, short], tmp_path / "out") == SOME_FAILED
    assert "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status", "done"),
    [
        (errno.ENAMETOOLONG, SOME_FAILED, ["a", "c"]),
        (errno.ENOSPC, SOME_FAILED, ["a"]),
        (errno.EDQUOT, SOME_FAILED, ["a"]),
        (errno.EROFS, SOME_FAILED, ["a"]),
    ],
)
def test_an_output_that_cannot_be_written_costs_no_other(tmp_path, monkeypatch, capsys, number, status, done):
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    name = output.name_new

    def failing(temporary: Path, target: Path) -> None:
        if target.name == "b.png":  # when the arrays are there already
            raise OSError(number, os.strerror(number), str(target))
        name(temporary, target)

    monkeypatch.setattr(output, "name_new", failing)
    assert run(tmp_path / "in", tmp_path / "out") == status
    assert sorted(contents(tmp_path / "out")) == [f"{name}{suffix}" for name in done for suffix in (".npz", ".png")]
    printed = capsys.readouterr()
    assert f"{len(done)} of 3 done" in printed.out
    assert os.strerror(number) in printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", ["b.npz", "b.png"])
def test_an_interruption_leaves_arrays_and_panel_or_neither_and_says_how_many(
    tmp_path, monkeypatch, capsys, moment, name
):
    for stem in "abc":
        picture(tmp_path / "in" / f"{stem}.png")
    usual = output.name_new

    def interrupted(temporary: Path, target: Path) -> None:
        if target.name != name or moment == "after":
            usual(temporary, target)
        if target.name == name:
            raise KeyboardInterrupt

    monkeypatch.setattr(output, "name_new", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["a.npz", "a.png"]
    assert "1 of 3 done" in capsys.readouterr().out


def test_a_disk_that_is_full_from_the_start_leaves_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    picture(tmp_path / "in" / "sea.png")

    def full(file: io.BufferedWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output, "flush_to_disk", full)
    assert run(tmp_path / "in", tmp_path / "out") == NOTHING_DONE
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written_to_is_known_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    picture(tmp_path / "in" / "sea.png")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(Depths, "predict", lambda *_: pytest.fail("computed"))
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert run(tmp_path / "in", out) == NOTHING_DONE
        assert f"--out {out}" in capsys.readouterr().err

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(predict, "temporary_file", read_only)
    assert run(tmp_path / "in", tmp_path / "out") == NOTHING_DONE
    assert "Read-only file system" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_a_picture_of_any_shape_ends_without_a_traceback(tmp_path, size):
    (tmp_path / "in").mkdir()
    Image.new("RGB", size).save(tmp_path / "in" / "line.png")
    picture(tmp_path / "in" / "sea.png")
    assert run(tmp_path / "in", tmp_path / "out") in (DONE, SOME_FAILED)
    assert (tmp_path / "out" / "sea.png").is_file()


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    picture(tmp_path / "in" / "sea.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".seqca-predict.1").write_bytes(bytes(100))
    (tmp_path / "out" / ".mine.1").write_bytes(bytes(100))
    assert run(tmp_path / "in", tmp_path / "out") == DONE
    assert sorted(contents(tmp_path / "out")) == [".mine.1", "sea.npz", "sea.png"]


def test_a_panel_that_cannot_be_read_costs_no_other(tmp_path, monkeypatch, capsys):
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.png")
    usual = Path.open

    def forbidden(path: Path, *rest: str) -> object:
        if path.name == "a.png" and path.parent.name == "in":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return usual(path, *rest)

    monkeypatch.setattr(Path, "open", forbidden)
    assert run(tmp_path / "in", tmp_path / "out") in (DONE, SOME_FAILED)
    assert (tmp_path / "out" / "b.png").is_file()


@pytest.mark.parametrize("error", [TypeError("of a rational number"), EOFError("no more"), KeyError(0), RuntimeError()])
def test_whatever_a_damaged_picture_raises_costs_no_other(tmp_path, monkeypatch, capsys, error):
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.png", shade=ord(name))
    usual = predict.to_rgb

    def damaged(image: Image.Image) -> Image.Image:
        if image.getpixel((0, 0))[0] == ord("a"):
            raise error
        return usual(image)

    monkeypatch.setattr(predict, "to_rgb", damaged)
    assert run(tmp_path / "in", tmp_path / "out") == SOME_FAILED
    assert sorted(contents(tmp_path / "out")) == ["b.npz", "b.png"]


@pytest.mark.parametrize("name", ["y" * 300, "loop"])
def test_a_path_that_leads_nowhere_costs_no_other(tmp_path, capsys, name):
    (tmp_path / "loop").symlink_to("loop")
    assert run([tmp_path / name, picture(tmp_path / "in" / "sea.png")], tmp_path / "out") == SOME_FAILED
    assert "got no file or folder" in capsys.readouterr().err
    assert (tmp_path / "out" / "sea.png").is_file()


def test_a_folder_that_is_a_link_to_itself_is_told(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    assert run(picture(tmp_path / "sea.png"), tmp_path / "loop") == NOTHING_DONE
    assert f"--out {tmp_path / 'loop'}" in capsys.readouterr().err
