"""A network as a file that runs without this package."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqca import cli
from seqca.inference import export
from seqca.models.network import TaskHead
from seqca.nn import CrossTaskAttention, FeaturePropagation, WindowSelfAttention
from seqca.ops import linear_attention, softplus, use_backend

ALONE_ONNX = """
import sys, numpy, onnxruntime
sys.modules["seqca"] = sys.modules["torch"] = None  # importing them fails
session = onnxruntime.InferenceSession(sys.argv[1])
assert [(x.name, x.shape) for x in session.get_inputs()] == [("images", ["batch", 3, "height", "width"])]
for file in sys.argv[2:]:
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(None, {"images": numpy.load(file)})
    numpy.savez(file.replace("images", "outputs") + ".npz", **dict(zip(names, outputs)))
"""

ALONE = """
import sys, torch
sys.modules["seqca"] = None  # importing it fails
program = torch.export.load(sys.argv[1]).module(check_guards=sys.argv[2] == "guarded")
for file in sys.argv[3:]:
    try:
        result = program(torch.load(file))
    except Exception as error:
        result = str(error)
    torch.save(result, file + ".out")
"""


class Small(nn.Module):
    """As a network is called, with fused operators, and small."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = {"depth": 1}
        self.conv, self.norm = nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> SimpleNamespace:
        x = self.norm(self.conv(images))
        tokens = softplus(x).flatten(2).mT
        return SimpleNamespace(final={"depth": linear_attention(tokens, tokens, tokens).mT.unflatten(2, x.shape[2:])})


SCALES = (0, 3)


class Blocks(nn.Module):
    """Every block of a network, with few channels, at its finest and coarsest scale: each takes seconds to trace."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = {"semseg": 4, "depth": 1}
        self.stem = nn.Conv2d(3, 18, 4, stride=4)
        self.attention = WindowSelfAttention(18, 2, 6)
        self.blocks = nn.ModuleList(nn.Conv2d(18, 16, 1) for _ in SCALES)
        self.exchange = CrossTaskAttention(tuple(self.tasks), 16)
        self.propagation = FeaturePropagation(tuple(self.tasks), 16)
        self.heads = nn.ModuleDict({task: TaskHead([16] * len(SCALES), n) for task, n in self.tasks.items()})

    def forward(self, images: Tensor) -> SimpleNamespace:
        x = self.attention(self.stem(images))
        maps = [conv(functional.avg_pool2d(x, 2**k)) for k, conv in zip(SCALES, self.blocks, strict=True)]
        scales = [
            self.propagation(self.exchange({task: x_k * (i + 1) for i, task in enumerate(self.tasks)})) for x_k in maps
        ]
        return SimpleNamespace(
            final={task: head([scale[task] for scale in scales]) for task, head in self.heads.items()}
        )


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Small:
    torch.manual_seed(0)
    network = Small().eval()
    monkeypatch.setattr(export, "load_network", lambda path: (network, {}))
    return network


def outputs(file: Path, guards: str, images: list[Tensor]) -> list[Any]:
    """What a program makes of each of several batches where this package is not there: predictions, or a message."""
    paths = [file.with_name(f"images{number}.pt") for number in range(len(images))]
    for path, values in zip(paths, images, strict=True):
        torch.save(values, path)
    subprocess.run([sys.executable, "-c", ALONE, file, guards, *paths], check=True, timeout=300)
    return [torch.load(f"{path}.out") for path in paths]


def test_the_file_computes_the_same_without_this_package(network: Small, tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    command = ["export", "--ckpt", "some.ckpt", "--out", str(file), "--size", "32", "64", "--batch", "2"]
    assert cli.main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    images = torch.randn(2, 3, 32, 64)
    (found, refusal) = outputs(file, "guarded", [images, torch.randn(2, 3, 32, 32)])
    with use_backend("reference"), torch.no_grad():
        expected = network(images).final["depth"]
    assert torch.equal(found["depth"], expected)
    assert "images.size()[3] == 64" in refusal


# With 256 pixels the coarsest map has two windows along a side, with multiples of 224 no map is padded.
LARGE_SHAPES = [(2, 3, 288, 320), (1, 3, 256, 256), (1, 3, 448, 448), (1, 3, 320, 672), (3, 3, 672, 256)]


REFUSED = [(1, 3, 224, 288), (1, 3, 288, 224), (1, 3, 300, 288)]


def test_a_program_for_any_size_computes_the_same_from_256_pixels_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Blocks().eval()
    monkeypatch.setattr(export, "load_network", lambda path: (network, {}))
    file = tmp_path / "net.pt2"
    assert cli.main(["export", "--ckpt", "some.ckpt", "--out", str(file), "--any-size"]) == 0
    images = [torch.randn(shape) for shape in (*LARGE_SHAPES, *REFUSED)]
    found = outputs(file, "unguarded", images)
    for values, predictions in zip(images[: len(LARGE_SHAPES)], found, strict=False):
        with use_backend("reference"), torch.no_grad():
            expected = network(values).final
        assert all(torch.equal(predictions[task], prediction) for task, prediction in expected.items())
    for refusal in found[len(LARGE_SHAPES) :]:
        assert "args[0].shape" in refusal


# Sides of maps that are and are no multiples of the window, and smaller than it.
SHAPES = [(1, 3, 32, 32), (2, 3, 64, 96), (3, 3, 96, 64), (1, 3, 224, 160)]


def test_an_onnx_file_computes_the_same_at_any_size_without_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Blocks().eval()
    monkeypatch.setattr(export, "load_network", lambda path: (network, {}))
    file = tmp_path / "net.onnx"
    assert cli.main(["export", "--ckpt", "some.ckpt", "--out", str(file)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    images = {tmp_path / f"images{i}.npy": torch.randn(shape) for i, shape in enumerate(SHAPES)}
    for path, values in images.items():
        np.save(path, values.numpy())
    subprocess.run([sys.executable, "-c", ALONE_ONNX, file, *images], check=True, timeout=300)
    for i, values in enumerate(images.values()):
        outputs = np.load(tmp_path / f"outputs{i}.npy.npz")
        with use_backend("reference"), torch.no_grad():
            expected = network(values).final
        assert list(outputs) == list(expected)
        for task, prediction in expected.items():
            # Another library that sums in another order is judged as a reimplementation is by the golden files.
            allowed = 1e-4 * prediction.abs().max().item()
            assert outputs[task].shape == prediction.shape
            assert np.abs(outputs[task] - prediction.numpy()).max() <= allowed


def test_without_onnx_it_is_told_what_to_install(
    network: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        export.main(["--ckpt", "some.ckpt", "--out", str(tmp_path / "net.onnx")])
    assert "onnx is not installed, expected pip install 'seqca[export]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "net.onnx", "--size", "32", "32"], "--size: got a value for a file that takes any, expected none"),
        (["--out", "net.onnx", "--batch", "1"], "--batch: got a value for a file that takes any"),
        (["--out", "net.pt2", "--any-size", "--size", "32", "32"], "--size: got a value for a file that takes any"),
        (["--out", "net.pth"], "--out: got net.pth, expected a name that ends in .pt2 or .onnx"),
        (["--out", "there.pt2"], "--out: got there.pt2, which exists, expected a new file"),
        (["--out", "net.pt2", "--size", "32", "40"], "width: got 40, expected a positive multiple of 32"),
        (["--out", "net.pt2", "--batch", "0"], "batch: got 0, expected a positive integer"),
    ],
)
def test_what_cannot_be_exported_is_named(
    options: list[str],
    message: str,
    network: Small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").touch()
    with pytest.raises(SystemExit):
        export.main(["--ckpt", "some.ckpt", *options])
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt2"]


SIZE = {"net.pt2": ["--size", "32", "32"], "net.onnx": []}


@pytest.mark.parametrize("name", SIZE)
def test_a_file_that_appears_while_the_network_is_traced_is_not_replaced(
    name: str, network: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(path: Path) -> tuple[Small, dict]:
        (tmp_path / name).write_text("precious")
        return network, {}

    monkeypatch.setattr(export, "load_network", load)
    assert export.main(["--ckpt", "some.ckpt", "--out", str(tmp_path / name), *SIZE[name]]) == 4
    assert f"seqca export: --out: File exists: {tmp_path / name}" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "precious"}


@pytest.mark.parametrize("name", SIZE)
def test_a_link_that_leads_nowhere_is_an_existing_file(name: str, network: Small, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        export.main(["--ckpt", "some.ckpt", "--out", str(tmp_path / name), *SIZE[name]])
    assert (tmp_path / name).is_symlink() and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", SIZE)
def test_a_full_disk_and_a_missing_folder_are_told(
    name: str, network: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--ckpt", "some.ckpt", *SIZE[name], "--out"]
    assert export.main([*command, str(tmp_path / "missing" / name)]) == 4
    assert f"No such file or directory: {tmp_path / 'missing' / name}" in capsys.readouterr().err

    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "flush_to_disk", full)
    assert export.main([*command, str(tmp_path / name)]) == 4
    assert "seqca export: --out: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_is_removed_by_the_next(network: Small, tmp_path: Path) -> None:
    for left in (".net.pt2.7", ".other.pt2.7"):
        (tmp_path / left).write_bytes(b"unfinished")
    assert export.main(["--ckpt", "some.ckpt", "--out", str(tmp_path / "net.pt2"), *SIZE["net.pt2"]]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.pt2.7", "net.pt2"]


def test_a_checkpoint_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["--ckpt", str(tmp_path / "none.ckpt"), "--out", str(tmp_path / "net.pt2")]) == 4
    assert "seqca export: --ckpt: " in capsys.readouterr().err
