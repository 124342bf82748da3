"""`seqca predict`: any picture in, panels and arrays out, nothing lost on the way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seqca import tasks
from seqca.inference.predict import DONE, NOTHING_DONE, SOME_FAILED, main, output_names, read_image
from seqca.models import SequentialCrossAttentionNet, to_published_state
from seqca.ops import BackendUnavailable, use_backend
from seqca.training.module import MultiTaskModule


@pytest.fixture(scope="module")
def module() -> MultiTaskModule:
    torch.manual_seed(0)
    return MultiTaskModule({"semseg": 4, "depth": 1}, class_names={"semseg": ["wall", "floor", "sofa", "lamp"]}).eval()


@pytest.fixture(scope="module")
def ckpt(module: MultiTaskModule, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    return str(path)


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (37, 21)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


def test_arrays_have_the_pictures_size_and_the_units_of_the_network(module, ckpt, tmp_path):
    path = picture(tmp_path / "in" / "room.png")
    assert main(["--ckpt", ckpt, "--images", str(path), "--out", str(tmp_path / "out"), "--device", "cpu"]) == DONE
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["room.npz", "room.png"]
    arrays = np.load(tmp_path / "out" / "room.npz")
    assert arrays["semseg"].shape == (21, 37) and arrays["semseg"].dtype == np.uint8
    assert arrays["depth"].shape == (1, 21, 37) and arrays["depth"].dtype == np.float32
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).contiguous()
    expected = module.network.predict(((image / 255 - mean) / deviation)[None])
    for task in ("semseg", "depth"):
        assert np.array_equal(arrays[task], expected[task][0].numpy())


def test_without_panels_the_arrays_are_written_alone(ckpt, tmp_path):
    path, out = picture(tmp_path / "a.jpg"), tmp_path / "out"
    arguments = ["--ckpt", ckpt, "--images", str(path), "--out", str(out), "--device", "cpu", "--no-panel"]
    assert main(arguments) == DONE
    assert [file.name for file in out.iterdir()] == ["a.npz"]


def test_a_picture_beyond_max_side_is_predicted_shrunk_and_written_at_its_own_size(ckpt, tmp_path, monkeypatch):
    path, out = picture(tmp_path / "a.png", size=(96, 48)), tmp_path / "out"
    seen = []
    predict = SequentialCrossAttentionNet.predict
    monkeypatch.setattr(
        SequentialCrossAttentionNet, "predict", lambda net, x: seen.append(tuple(x.shape)) or predict(net, x)
    )
    arguments = ["--ckpt", ckpt, "--images", str(path), "--out", str(out), "--device", "cpu", "--max-side", "40"]
    assert main(arguments) == DONE
    assert seen == [(1, 3, 20, 40)]
    arrays = np.load(out / "a.npz")
    assert arrays["semseg"].shape == (48, 96) and arrays["depth"].shape == (1, 48, 96)
    assert {file.name for file in out.iterdir()} == {"a.npz", "a.png"}


def test_a_large_picture_is_told_before_it_is_computed_unless_it_is_shrunk(ckpt, tmp_path, monkeypatch, capsys):
    picture(tmp_path / "in" / "large.png", size=(96, 48))
    picture(tmp_path / "in" / "small.png")
    (tmp_path / "in" / "broken.png").write_text("no picture")
    monkeypatch.setattr("seqca.inference.predict.LARGE", 96 * 48 - 1)
    told = []
    monkeypatch.setattr("seqca.inference.predict.predict_one", lambda *_: told.append(capsys.readouterr().err))
    arguments = ["--ckpt", ckpt, "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    main(arguments)
    assert "1 of the pictures" in told[0] and "large.png (96×48)" in told[0] and "--max-side" in told[0]
    told.clear()
    main([*arguments, "--max-side", "95"])
    assert "large.png" not in "".join(told)


@pytest.mark.parametrize("side", ["0", "-1", "many"])
def test_a_max_side_that_is_no_positive_number_is_wrong_usage(ckpt, tmp_path, capsys, side):
    with pytest.raises(SystemExit) as stopped:
        main(["--ckpt", ckpt, "--images", str(tmp_path), "--out", str(tmp_path / "out"), f"--max-side={side}"])
    assert stopped.value.code == 2
    assert f"--max-side: got {side}, expected a positive integer" in capsys.readouterr().err


def test_unreadable_files_are_reported_and_the_rest_is_done(ckpt, tmp_path, capsys):
    picture(tmp_path / "in" / "good.jpg")
    whole = picture(tmp_path / "in" / "cut.png", size=(64, 64)).read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "text.jpg").write_text("no picture")
    (tmp_path / "in" / "notes.txt").write_text("not asked for")
    arguments = ["--ckpt", ckpt, "--images", str(tmp_path / "in"), str(tmp_path / "nowhere.png"), "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == SOME_FAILED
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good.npz", "good.png"]
    printed = capsys.readouterr()
    assert all(name in printed.err for name in ("cut.png", "text.jpg", "nowhere.png"))
    assert "notes.txt" not in printed.err
    assert "1 of 4" in printed.out


def test_no_picture_is_blamed_for_a_backend_that_cannot_run(ckpt, tmp_path):
    path = picture(tmp_path / "in" / "room.png")
    with use_backend("cuda"), pytest.raises(BackendUnavailable, match="backend 'cuda' cannot run"):
        main(["--ckpt", ckpt, "--images", str(path), "--out", str(tmp_path / "out"), "--device", "cpu"])


def test_nothing_readable_has_a_status_of_its_own(ckpt, tmp_path):
    arguments = ["--ckpt", ckpt, "--images", str(tmp_path / "none.jpg"), "--out", str(tmp_path / "out")]
    assert main(arguments) == NOTHING_DONE


def test_a_file_that_is_no_checkpoint_is_named(tmp_path, capsys):
    path = picture(tmp_path / "in" / "room.png")
    (tmp_path / "bad.ckpt").write_text("nothing")
    for bad in ("bad.ckpt", "missing.ckpt", "in/room.png"):
        arguments = ["--ckpt", str(tmp_path / bad), "--images", str(path), "--out", str(tmp_path / "out")]
        assert main(arguments) == NOTHING_DONE
        printed = capsys.readouterr().err
        assert bad in printed and "weights_only" not in printed


def test_a_checkpoint_of_another_program_and_weights_that_do_not_fit_are_refused(module, tmp_path, capsys):
    settings, weights = dict(module.hparams), module.state_dict()
    foreign = {"state_dict": weights, "hyper_parameters": {"lr": 1e-3}}
    cut = {"state_dict": dict(list(weights.items())[1:]), "hyper_parameters": settings}
    torch.save(foreign, tmp_path / "foreign.ckpt")
    torch.save(cut, tmp_path / "cut.ckpt")
    path = picture(tmp_path / "in" / "room.png")
    for name, reason in {
        "foreign.ckpt": "got no tasks, auxiliary",
        "cut.ckpt": "expected those of the file's settings",
    }.items():
        arguments = ["--ckpt", str(tmp_path / name), "--images", str(path), "--out", str(tmp_path / "out")]
        assert main(arguments) == NOTHING_DONE
        assert reason in capsys.readouterr().err


def test_a_task_of_ones_own_needs_the_module_that_registers_it(module, tmp_path, monkeypatch, capsys):
    (tmp_path / "heat_task.py").write_text(
        "from dataclasses import replace\n"
        "from seqca.tasks import get_task, register_task\n"
        "register_task(replace(get_task('depth'), name='heat'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    weights = {key.replace("depth", "heat"): value for key, value in module.state_dict().items()}
    settings = dict(module.hparams) | {"tasks": {"semseg": 4, "heat": 1}}
    torch.save({"state_dict": weights, "hyper_parameters": settings}, tmp_path / "heat.ckpt")
    picture(tmp_path / "in" / "room.png")
    given = ["--ckpt", str(tmp_path / "heat.ckpt"), "--images", str(tmp_path / "in")]
    arguments = [*given, "--out", str(tmp_path / "out")]
    assert main(arguments) == NOTHING_DONE
    assert "tasks: got heat, expected some of" in capsys.readouterr().err
    assert main([*arguments, "--import", "heat_task"]) == DONE
    assert "heat" in np.load(tmp_path / "out" / "room.npz")


@pytest.mark.parametrize("option", [["--device", "abacus"], ["--device", "cuda:99"], ["--import", "no_such_module"]])
def test_a_device_or_module_that_is_not_there_is_wrong_usage(ckpt, tmp_path, capsys, option):
    path = picture(tmp_path / "in" / "room.png")
    with pytest.raises(SystemExit) as stopped:
        main(["--ckpt", ckpt, "--images", str(path), "--out", str(tmp_path / "out"), *option])
    assert stopped.value.code == 2
    assert " ".join(option) in capsys.readouterr().err


def test_the_folder_of_the_pictures_is_refused_as_the_folder_to_write_to(ckpt, tmp_path, capsys):
    path = picture(tmp_path / "room.png")
    before = path.read_bytes()
    for images in (path, tmp_path):
        with pytest.raises(SystemExit) as stopped:
            main(["--ckpt", ckpt, "--images", str(images), "--out", str(tmp_path)])
        assert stopped.value.code == 2
    assert path.read_bytes() == before


def test_a_second_run_does_not_take_the_first_ones_panels_for_pictures(ckpt, tmp_path, capsys):
    picture(tmp_path / "room.png")
    for _ in range(2):
        assert main(["--ckpt", ckpt, "--images", str(tmp_path), "--out", str(tmp_path / "out")]) == DONE
        assert "1 of 1" in capsys.readouterr().out


def test_a_published_checkpoint_predicts_too(module, tmp_path):
    path = picture(tmp_path / "in" / "room.png")
    torch.save({"model": to_published_state(module.network.state_dict())}, tmp_path / "published.pth")
    arguments = ["--ckpt", str(tmp_path / "published.pth"), "--images", str(path), "--out", str(tmp_path / "out")]
    assert main(arguments) == DONE
    assert set(np.load(tmp_path / "out" / "room.npz")) == {"semseg", "depth"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a/x.jpg", "a/y.jpg"], ["x", "y"]),
        (["a/x.jpg", "a/x.png"], ["x", "x_2"]),
        (["a/x.jpg", "b/X.jpg"], ["x", "X_2"]),
        (["a/e\u0301.jpg", "a/\u00e9.jpg"], ["e\u0301", "\u00e9_2"]),
        (["a/x_2.jpg", "a/x.jpg", "b/x.jpg", "b/x.png"], ["x_2", "x", "x_3", "x_4"]),
    ],
)
def test_no_two_pictures_share_the_name_of_their_outputs(files, expected):
    assert list(output_names([Path(file) for file in files]).values()) == expected


def test_exif_orientation_is_respected(tmp_path):
    upright = Image.new("RGB", (40, 20), "red")
    upright.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.save(tmp_path / "turned.png", exif=exif)
    image = read_image(tmp_path / "turned.png")
    assert image.shape == (40, 20, 3)
    assert (image[:20] == (0, 0, 255)).all() and (image[20:] == (255, 0, 0)).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_common_mode_becomes_rgb(tmp_path, mode):
    path = picture(tmp_path / f"room.{'jpg' if mode == 'CMYK' else 'png'}", mode)
    image = read_image(path)
    assert image.shape == (21, 37, 3) and image.dtype == np.uint8


def test_sixteen_bits_of_grey_keep_their_brightness(tmp_path):
    Image.fromarray(np.full((4, 4), 0x8080, np.uint16)).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png") == 0x80).all()


def test_what_is_transparent_becomes_white(tmp_path):
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
