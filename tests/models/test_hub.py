"""A network as a folder, without a connection."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, hub_mixin
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from seqca.inference.predict import main as predict
from seqca.inference.restore import load_network
from seqca.models import SequentialCrossAttentionNet, hub
from seqca.models.checkpoint import CheckpointError

NAMES = {"semseg": ["wall", "floor", "lamp"]}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def network() -> SequentialCrossAttentionNet:
    torch.manual_seed(0)
    net = SequentialCrossAttentionNet({"semseg": 3, "depth": 1}, {"edge": 1}, drop_path=0.1, cross_scale=False)
    net.class_names = NAMES
    return net.eval()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "net"
    network.save_pretrained(path)
    return path


def test_a_folder_gives_back_the_network_with_its_settings_and_the_names_of_its_classes(network, folder):
    again = SequentialCrossAttentionNet.from_pretrained(folder)
    assert again.settings == network.settings and again.class_names == NAMES and not again.training
    state = again.state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(image).final["depth"], network(image).final["depth"])


def test_weights_are_safetensors_with_configuration_and_class_names_beside_them(folder):
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "class_names.json", "model.safetensors"} <= files <= {*files, "README.md"}
    assert json.loads((folder / "config.json").read_text())["tasks"] == {"semseg": 3, "depth": 1}
    assert "pretrained" not in (folder / "config.json").read_text(), "loading must not download what it replaces"


def test_predict_takes_a_folder(folder, tmp_path):
    Image.new("RGB", (40, 33), "green").save(tmp_path / "photo.png")
    arguments = ["--ckpt", str(folder), "--images", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]
    assert predict(arguments) == 0
    assert (tmp_path / "out" / "photo.npz").is_file()
    assert load_network(folder)[1] == NAMES


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_folder_that_lacks_a_file_or_has_another_network_s_is_refused(name, folder, tmp_path):
    for path in folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(CheckpointError, match=f"got no {name}"):
        load_network(tmp_path)
    if name == "config.json":
        (tmp_path / name).write_text(json.dumps({"tasks": {"semseg": 4, "depth": 1}}))
    else:
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(CheckpointError):
        load_network(tmp_path)


@pytest.fixture
def repositories(tmp_path, monkeypatch):
    """A folder in place of the Hub, which has a folder for each repository."""
    folder = tmp_path / "repositories"

    def download(repo_id, filename, **options):
        if not (folder / repo_id / filename).is_file():
            raise LocalEntryNotFoundError(filename)
        return str(folder / repo_id / filename)

    def upload(api, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, folder / repo_id)

    monkeypatch.setattr(HfApi, "create_repo", lambda api, repo_id, **options: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    for module in (hub_mixin, hub):
        monkeypatch.setattr(module, "hf_hub_download", download)
    return folder


@pytest.mark.parametrize("names", [NAMES, {}], ids=["with names of classes", "without"])
def test_a_repository_gives_back_the_network_that_was_pushed(names, network, repositories, monkeypatch):
    monkeypatch.setattr(network, "class_names", names)
    network.push_to_hub("somebody/net")
    again = SequentialCrossAttentionNet.from_pretrained("somebody/net")
    assert again.settings == network.settings and again.class_names == names and not again.training
    state = again.state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_a_repository_without_weights_is_refused(network, repositories):
    network.push_to_hub("somebody/net")
    (repositories / "somebody" / "net" / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"somebody/net: got no model\.safetensors, expected what save_pretrained"
    ):
        SequentialCrossAttentionNet.from_pretrained("somebody/net")
