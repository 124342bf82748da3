"""Reading checkpoints: no code runs, nothing unsafe is advised, what does not fit is named shortly."""

import pickle

import pytest
import torch

from seqca.models.backbone import create_backbone
from seqca.models.checkpoint import LISTED, CheckpointError, check_state, read_checkpoint, without_wrappers
from tests.malice import Command, write_malicious


def test_a_file_that_would_run_a_command_is_refused_with_what_it_holds(tmp_path):
    sign = tmp_path / "sign"
    path = write_malicious(tmp_path / "evil.ckpt", sign)
    with pytest.raises(CheckpointError, match=r"evil\.ckpt, which holds (posix|nt)\.mkdir") as error:
        read_checkpoint(path)
    assert not sign.exists() and "weights_only" not in str(error.value)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_runs_nothing_either(tmp_path, protocol):
    sign = tmp_path / "sign"
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Command(sign), protocol))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not sign.exists()


def test_the_environment_does_not_make_it_unsafe(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    sign = tmp_path / "sign"
    with pytest.raises(CheckpointError):
        read_checkpoint(write_malicious(tmp_path / "evil.ckpt", sign))
    assert not sign.exists()


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04" + bytes(200), bytes(4096)]
)
def test_a_file_of_another_kind_is_called_so_without_unsafe_advice(tmp_path, content):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"picture\.jpg, which is damaged or no checkpoint") as error:
        read_checkpoint(path)
    assert "weights_only" not in str(error.value) and error.value.__suppress_context__


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/a.ckpt", "HTTPS://host/a.ckpt", "s3://bucket/a.ckpt", "file:///a.ckpt", "data:,abc",
        "simplecache::http://host/a.ckpt", "hf-hub:a/b", "registry:a",
    ],
)  # fmt: skip
def test_an_address_is_refused_with_the_advice_to_download(address):
    with pytest.raises(CheckpointError, match=r"got the address .*, expected a local file: download it first"):
        read_checkpoint(address)


def test_what_is_not_there_and_folders_are_named(tmp_path):
    for path, reason in ((tmp_path / "none.ckpt", "not there"), (tmp_path, "the folder"), ("x" * 5000, "not there")):
        with pytest.raises(CheckpointError, match=reason):
            read_checkpoint(path)


def test_something_that_is_no_dict_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match=r"a list in it, expected a dict"):
        read_checkpoint(tmp_path / "list.ckpt")


@pytest.mark.parametrize(
    "key",
    [
        "network.a.b", "module.network.a.b", "_orig_mod.network.a.b", "network._orig_mod.a.b", "network.module.a.b",
        "module._orig_mod.network.a._orig_mod.b", "_orig_mod.module.network.a.b",
    ],
)  # fmt: skip
def test_the_prefixes_of_wrappers_are_understood(key):
    assert without_wrappers({key: 1, "val_metric.x": 2}, "network.") == {"a.b": 1}


def test_two_weights_of_one_name_and_keys_that_are_no_strings_are_refused():
    with pytest.raises(CheckpointError, match=r"got a twice"):
        without_wrappers({"a": 1, "module.a": 2})
    with pytest.raises(CheckpointError, match=r"the key 3"):
        without_wrappers({3: 1})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.tensor([1.0, float("inf")]), "not finite"),
        (torch.tensor([1.0, 1e300], dtype=torch.float64), "not finite in torch.float32"),
        (torch.ones(3), r"the shape \(3,\), expected \(2,\)"),
        (torch.ones(2, dtype=torch.int64), r"torch.int64, expected torch.float32"),
        (torch.ones(2, dtype=torch.complex64), r"torch.complex64, expected torch.float32"),
        (torch.ones(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "on meta"),
        ("weights", "str, expected a tensor"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_reason(value, reason):
    with pytest.raises(CheckpointError, match=rf"expected those of the network\n  a: got .*{reason}"):
        check_state({"a": value}, {"a": torch.ones(2)}, "the network")


def test_negative_variances_are_refused_and_short_numbers_are_not():
    expected = {"a.running_var": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"a\.running_var: got negative numbers, expected variances"):
        check_state({"a.running_var": torch.tensor([1.0, -1.0])}, expected, "the network")
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        check_state({"a.running_var": torch.ones(2).to(dtype)}, expected, "the network")


def test_many_differences_fit_on_a_screen():
    with pytest.raises(CheckpointError, match=r"missing: key0\n(.|\n)*\n  and 992 more") as error:
        check_state({}, {f"key{n}": torch.ones(1) for n in range(1000)}, "the network")
    assert len(str(error.value).splitlines()) == LISTED + 2


@pytest.mark.parametrize("name", ["weights.SAFETENSORS", "weights.safetensors", "weights.pth"])
def test_damaged_weights_of_a_backbone_are_called_so_without_unsafe_advice(tmp_path, name):
    write_malicious(tmp_path / name, tmp_path / "sign")
    with pytest.raises(CheckpointError, match=name) as error:
        create_backbone("hrnet_w18_small_v2", pretrained=tmp_path / name)
    assert "weights_only" not in str(error.value) and not (tmp_path / "sign").exists()


@pytest.mark.parametrize("name", ["hf-hub:evil/model", "hf_hub:evil/model", "local-dir:/tmp", "\thf-hub:a/b", "", 3])
def test_a_backbone_is_a_name_that_timm_lists_and_no_address(name, monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("asked timm for it"))
    with pytest.raises(ValueError, match=r"backbone: got .*, expected a name in timm\.list_models\(\)"):
        create_backbone(name)


def test_a_file_of_backbone_weights_runs_no_code(tmp_path):
    sign = tmp_path / "sign"
    with pytest.raises(CheckpointError, match="mkdir"):
        create_backbone("hrnet_w18_small_v2", pretrained=write_malicious(tmp_path / "evil.pth", sign))
    assert not sign.exists()
