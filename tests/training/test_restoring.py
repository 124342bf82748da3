"""Whichever way a checkpoint comes into a run: no code of it runs, it decides about weights alone, and it fits."""

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Trainer

from seqca.models.checkpoint import CheckpointError
from seqca.training.checkpoints import AtomicCheckpointIO
from seqca.training.cli import main
from seqca.training.datamodule import RoomsDataModule
from seqca.training.module import MultiTaskModule
from tests.malice import write_malicious

QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
TINY = {"tasks": ["depth"], "size": (32, 32), "train_length": 2, "val_length": 1, "batch_size": 1, "num_workers": 0}


@pytest.fixture(scope="module")
def module() -> MultiTaskModule:
    return MultiTaskModule({"depth": 1})


@pytest.fixture(scope="module")
def data() -> RoomsDataModule:
    return RoomsDataModule(**TINY)


def checkpoint_of(module: MultiTaskModule, **other: Any) -> dict[str, Any]:
    version = {"pytorch-lightning_version": "2.6.4", "epoch": 0, "global_step": 0, "loops": {}}
    return {**version, "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), **other}


@pytest.fixture(params=["http", "data", "file", "pickle here", "hpc"])
def evil(request, module, tmp_path, monkeypatch) -> Iterator[tuple[str, Path]]:
    """Where a whole checkpoint that runs a command when it is unpickled is offered, and the sign that it did."""
    sign, folder = tmp_path / "sign", tmp_path / "offered"
    folder.mkdir()
    path = write_malicious(folder / "hpc_ckpt_1.ckpt", sign, **checkpoint_of(module))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    if request.param == "http":
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}/{path.name}", sign
            server.shutdown()
    elif request.param == "file":
        yield f"file://{path}", sign
    elif request.param == "data":
        yield f"simplecache::file://{path}", sign
    elif request.param == "hpc":
        monkeypatch.chdir(folder)
        yield "hpc", sign
    else:
        yield str(path), sign
    assert not sign.exists(), "a checkpoint ran a command"


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize("where", ["command line", "file"])
def test_no_command_runs_code_out_of_a_checkpoint(command, where, evil, tmp_path):
    settings = {"data": {"class_path": "RoomsDataModule", "init_args": {**TINY, "size": [32, 32]}}, "trainer": QUIET}
    settings |= {"ckpt_path": evil[0]} if where == "file" else {}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    with pytest.raises(CheckpointError, match=r"the address|which holds (posix|nt)\.mkdir"):
        main([command, "--config", str(recipe), *(["--ckpt_path", evil[0]] if where == "command line" else [])])


@pytest.mark.parametrize("function", ["fit", "validate", "test"])
def test_a_trainer_of_ones_own_runs_no_code_either(function, module, data, evil):
    trainer = Trainer(max_epochs=1, **QUIET)
    with pytest.raises(CheckpointError):
        getattr(trainer, function)(module, datamodule=data, ckpt_path=evil[0])


@pytest.mark.parametrize("kind", [MultiTaskModule, RoomsDataModule])
def test_loading_from_a_checkpoint_runs_no_code(kind, evil):
    with pytest.raises(Exception):  # noqa: B017  # which one is Lightning's business, that none runs is ours
        kind.load_from_checkpoint(evil[0])


@pytest.mark.parametrize("kind", [MultiTaskModule, RoomsDataModule])
def test_loading_from_what_is_no_checkpoint_gives_no_advice_to_load_it_without_safety(kind, tmp_path):
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    with pytest.raises(CheckpointError, match=r"picture\.jpg") as caught:
        kind.load_from_checkpoint(tmp_path / "picture.jpg")
    assert "weights_only" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("kind", [MultiTaskModule, RoomsDataModule])
def test_nobody_can_ask_for_code(kind, tmp_path):
    for load in (kind.load_from_checkpoint, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(ValueError, match="weights_only: got False, expected True"):
            load(tmp_path / "any.ckpt", weights_only=False)
    with pytest.raises(SystemExit):
        main(["fit", "--weights_only=false"])


def test_a_checkpoint_gives_back_its_module(module, tmp_path):
    torch.save(checkpoint_of(module), tmp_path / "a.ckpt")
    loaded = MultiTaskModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("setting", [{"pretrained": "/evil.pth"}, {"single_task_scores": ["/evil.json"]}])
def test_a_checkpoint_leads_to_no_other_file(module, setting, tmp_path):
    settings = dict(module.hparams) | setting | {"_instantiator": "os.system"}
    torch.save(checkpoint_of(module, hyper_parameters=settings), tmp_path / "a.ckpt")
    assert MultiTaskModule.load_from_checkpoint(tmp_path / "a.ckpt").single_task_scores is None


@pytest.mark.parametrize("backbone", ["hf-hub:evil/model", "local-dir:/tmp"])
def test_a_checkpoint_leads_to_no_host_and_no_folder(module, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("asked timm for it"))
    settings = dict(module.hparams) | {"backbone": backbone}
    torch.save(checkpoint_of(module, hyper_parameters=settings), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="backbone: got"):
        MultiTaskModule.load_from_checkpoint(tmp_path / "a.ckpt")
    arguments = [f"--data.{key}={list(value) if key == 'size' else value}" for key, value in TINY.items()]
    with pytest.raises((ValueError, SystemExit)):
        main(["validate", *arguments, "--ckpt_path", str(tmp_path / "a.ckpt")])


def broken(module: MultiTaskModule, how: str) -> dict[str, Any]:
    state = dict(module.state_dict())
    key = next(iter(state))
    if how == "not finite":
        state[key] = torch.full_like(state[key], float("nan"))
    elif how == "a weight less":
        del state[key]
    elif how == "other tasks":
        return checkpoint_of(module, hyper_parameters=dict(module.hparams) | {"tasks": {"semseg": 13, "depth": 1}})
    return checkpoint_of(module, state_dict=state)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("not finite", "numbers that are not finite"),
        ("a weight less", "missing: network.backbone.conv1.weight"),
        ("other tasks", r"got the tasks semseg \(13\), depth \(1\), expected those of this run, depth \(1\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_a_few_words(module, how, reason):
    with pytest.raises(CheckpointError, match=reason) as error:
        module.on_load_checkpoint(broken(module, how))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_understood_when_a_run_goes_on(module, prefix):
    state = {f"{prefix}{key}": value for key, value in module.state_dict().items()}
    checkpoint = checkpoint_of(module, state_dict=state)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])


def test_a_wrapped_network_takes_the_weights_of_a_plain_one():
    module = MultiTaskModule({"depth": 1})
    checkpoint = checkpoint_of(module, state_dict=dict(module.state_dict()))
    module.network = torch.compile(module.network, backend="eager")
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])


def test_a_checkpoint_is_not_written_to_an_address():
    with pytest.raises(ValueError, match=r"path: got the address s3://bucket/a\.ckpt"):
        AtomicCheckpointIO().save_checkpoint({}, "s3://bucket/a.ckpt")
    assert not os.path.exists("s3:")
