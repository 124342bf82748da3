"""A network as a file that runs without this package."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from seqca import cli
from seqca.inference import export
from seqca.ops import linear_attention, softplus, use_backend

ALONE = """
import sys, torch
sys.modules["seqca"] = None  # importing it fails
program = torch.export.load(sys.argv[1]).module()
torch.save(program(torch.load(sys.argv[2])), sys.argv[3])
"""


class Small(nn.Module):
    """As a network is called, with fused operators, and small: tracing the whole one takes minutes."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = {"depth": 1}
        self.conv, self.norm = nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> SimpleNamespace:
        x = self.norm(self.conv(images))
        tokens = softplus(x).flatten(2).mT
        return SimpleNamespace(final={"depth": linear_attention(tokens, tokens, tokens).mT.unflatten(2, x.shape[2:])})


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Small:
    torch.manual_seed(0)
    network = Small().eval()
    monkeypatch.setattr(export, "load_network", lambda path: (network, {}))
    return network


def test_the_file_computes_the_same_without_this_package(network: Small, tmp_path: Path) -> None:
    file, inputs, outputs = tmp_path / "net.pt2", tmp_path / "images.pt", tmp_path / "out.pt"
    command = ["export", "--ckpt", "some.ckpt", "--out", str(file), "--size", "32", "64", "--batch", "2"]
    assert cli.main(command) == 0
    images = torch.randn(2, 3, 32, 64)
    torch.save(images, inputs)
    subprocess.run([sys.executable, "-c", ALONE, file, inputs, outputs], check=True, timeout=300)
    with use_backend("reference"), torch.no_grad():
        expected = network(images).final["depth"]
    assert torch.equal(torch.load(outputs)["depth"], expected)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".pt2"] == ["net.pt2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "net.onnx"], "--out: got net.onnx, expected a name that ends in .pt2"),
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


def test_a_checkpoint_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["--ckpt", str(tmp_path / "none.ckpt"), "--out", str(tmp_path / "net.pt2")]) == 4
    assert "seqca export: --ckpt: " in capsys.readouterr().err
