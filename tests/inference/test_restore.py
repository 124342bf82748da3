"""Whatever a checkpoint file holds: a network that predicts, or one kind of error in a few words."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqca.inference.predict import NOTHING_DONE, main
from seqca.inference.restore import load_network
from seqca.models import SequentialCrossAttentionNet, to_published_state
from seqca.models.checkpoint import CheckpointError

Content = dict[str, Any]


@pytest.fixture(scope="module")
def net() -> SequentialCrossAttentionNet:
    torch.manual_seed(0)
    return SequentialCrossAttentionNet({"semseg": 4, "depth": 1})


@pytest.fixture
def content(net) -> Content:
    settings = {
        "tasks": {"semseg": 4, "depth": 1}, "auxiliary": {}, "backbone": "hrnet_w18_small_v2", "drop_path": 0.2,
        "class_names": {"semseg": ["a", "b", "c", "d"]}, "cross_task": True, "cross_scale": True,
    }  # fmt: skip
    state = {f"network.{key}": value for key, value in net.state_dict().items()}
    return {"hyper_parameters": settings, "state_dict": state}


def setting(name: str, value: object) -> Callable[[Content], object]:
    return lambda content: content["hyper_parameters"].__setitem__(name, value)


def weight(change: Callable[[torch.Tensor], object]) -> Callable[[Content], object]:
    key = "network.backbone.conv1.weight"
    return lambda content: content["state_dict"].__setitem__(key, change(content["state_dict"][key]))


def part(name: str, value: object) -> Callable[[Content], object]:
    return lambda content: content.__setitem__(name, value)


def all_nan(content: Content) -> None:
    for key, value in content["state_dict"].items():
        if value.is_floating_point():
            content["state_dict"][key] = torch.full_like(value, float("nan"))


DAMAGES: dict[str, Callable[[Content], object]] = {
    "settings that are none": part("hyper_parameters", None),
    "settings that are a list": part("hyper_parameters", ["tasks"]),
    "settings that are empty": part("hyper_parameters", {}),
    "weights that are none": part("state_dict", None),
    "weights that are a list": part("state_dict", [1, 2]),
    "no weights": lambda content: content.pop("state_dict"),
    "weights of no name": lambda content: content["state_dict"].__setitem__(3, torch.ones(1)),
    "tasks that are a list": setting("tasks", ["semseg", "depth"]),
    "tasks that are none": setting("tasks", None),
    "no task": setting("tasks", {}),
    "a task of text": setting("tasks", {"semseg": "4", "depth": 1}),
    "a task without name": setting("tasks", {1: 1}),
    "a task of a trillion channels": setting("tasks", {"semseg": 10**12, "depth": 1}),
    "a thousand tasks": setting("tasks", {f"task{n}": 1 for n in range(1000)}),
    "another order of tasks": setting("tasks", {"depth": 4, "semseg": 1}),
    "auxiliary tasks that are text": setting("auxiliary", "normals"),
    "auxiliary tasks without weights": setting("auxiliary", {"normals": 3}),
    "a backbone that is a number": setting("backbone", 3),
    "a backbone that is a folder": setting("backbone", "local-dir:/tmp"),
    "a backbone at a host": setting("backbone", "hf-hub:evil/model"),
    "another backbone": setting("backbone", "resnet18"),
    "a backbone that is unheard of": setting("backbone", "resnot"),
    "drop path of text": setting("drop_path", "a"),
    "a switch of text": setting("cross_task", "a"),
    "names that are a number": setting("class_names", 3),
    "names that are text": setting("class_names", {"semseg": "abcd"}),
    "names of nothing": setting("class_names", {"semseg": [1, None]}),
    "weights that are not numbers": all_nan,
    "one infinite weight": weight(lambda x: x.clone().fill_(float("inf"))),
    "a weight of another shape": weight(lambda x: x[:1]),
    "a weight of integers": weight(lambda x: x.long()),
    "a complex weight": weight(lambda x: x.to(torch.complex64)),
    "a sparse weight": weight(lambda x: x.to_sparse()),
    "a weight of nothing": weight(lambda x: x.to("meta")),
    "a weight of text": weight(lambda x: "weight"),
    "a quantised weight": weight(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
}


def assert_refused(path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        load_network(path)
    assert len(str(error.value)) < 1500 and "weights_only" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_one_kind_of_error(content, tmp_path, damage, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked a host"))
    DAMAGES[damage](content)
    torch.save(content, tmp_path / "a.ckpt")
    assert_refused(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "content",
    [{}, {"a": 1}, {"model": 3}, {"model": {}}, {"model": [1]}, {1: torch.ones(1)}, {"a": torch.ones(1)}, [1], 3, None,
     {"scale_3.decoders.depth.weight": torch.tensor(1.0), "heads.depth.x": torch.ones(1)}],
)  # fmt: skip
def test_what_is_no_checkpoint_at_all_is_refused_likewise(content, tmp_path):
    torch.save(content, tmp_path / "a.ckpt")
    assert_refused(tmp_path / "a.ckpt")


def test_a_published_checkpoint_with_weights_that_are_no_numbers_is_refused(net, tmp_path):
    state = to_published_state(net.state_dict())
    torch.save({"model": {key: x * float("nan") for key, x in state.items() if "index" not in key}}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth")
    key = next(key for key, value in state.items() if value.is_floating_point())
    torch.save({**state, key: state[key] * float("nan")}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth")


def test_bytes_that_are_cut_or_flipped_give_a_network_or_the_error(content, tmp_path):
    content["state_dict"] = dict(list(content["state_dict"].items())[:40])  # a small file, of which every part is hit
    torch.save(content, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    generator = random.Random(0)
    for number in range(24):
        data = bytearray(whole)
        if number % 2:
            del data[generator.randrange(len(data)) :]
        else:
            # Most of a file are weights; what describes them is at its beginning and its end.
            place = generator.choice([generator.randrange(4096), len(data) - 1 - generator.randrange(4096)])
            data[place] ^= 1 << generator.randrange(8)
        (tmp_path / "a.ckpt").write_bytes(data)
        assert_refused(tmp_path / "a.ckpt")


@pytest.mark.parametrize("kind", ["of seqca fit", "published", "a folder"])
def test_a_task_that_is_not_registered_is_named_with_the_way_out(tmp_path, kind):
    network = SequentialCrossAttentionNet({"albedo": 3, "depth": 1})
    path = tmp_path / "a.ckpt"
    if kind == "published":
        torch.save(to_published_state(network.state_dict()), path)
    elif kind == "a folder":
        network.save_pretrained(path)
    else:
        settings = {"auxiliary": None, "backbone": "hrnet_w18_small_v2", "drop_path": 0.2, "class_names": None}
        state = {f"network.{key}": value for key, value in network.state_dict().items()}
        torch.save({"hyper_parameters": {"tasks": network.tasks, **settings}, "state_dict": state}, path)
    with pytest.raises(CheckpointError) as error:
        load_network(path)
    assert str(error.value).startswith(f"{path}: tasks: got albedo, expected some of semseg, ")
    assert str(error.value).endswith("(seqca predict --import)")


@pytest.mark.parametrize("prefix", ["", "module._orig_mod."])
def test_the_prefixes_of_wrappers_are_understood(net, content, tmp_path, prefix):
    content["state_dict"] = {f"{prefix}{key}": value for key, value in content["state_dict"].items()}
    torch.save(content, tmp_path / "a.ckpt")
    loaded, names = load_network(tmp_path / "a.ckpt")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in net.state_dict().items())
    assert names == {"semseg": ["a", "b", "c", "d"]} and not loaded.training


def test_a_compiled_network_inside_a_published_checkpoint_is_understood(net, tmp_path):
    state = {f"_orig_mod.{key}": value for key, value in to_published_state(net.state_dict()).items()}
    torch.save({"model": state}, tmp_path / "a.pth")
    loaded, _ = load_network(tmp_path / "a.pth")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in net.state_dict().items())


def test_the_command_ends_with_its_status_and_one_line(content, tmp_path, capsys):
    broken = copy.copy(content)
    all_nan(broken)
    torch.save(broken, tmp_path / "a.ckpt")
    (tmp_path / "a.jpg").touch()
    given = ["--images", str(tmp_path / "a.jpg"), "--out", str(tmp_path / "out")]
    assert main(["--ckpt", str(tmp_path / "a.ckpt"), *given]) == NOTHING_DONE
    printed = capsys.readouterr().err
    assert "not finite" in printed and len(printed.splitlines()) < 15
