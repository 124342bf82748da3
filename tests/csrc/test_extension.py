"""The extension is built at first use where that is asked for, and what does not load says what was built with what."""

import json
import os
import platform
from pathlib import Path

import pytest
import torch

from seqca import building, extension
from seqca.extension import ExtensionUnavailable

from . import pretence


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension that is not loaded yet."""
    monkeypatch.setattr(extension, "load", extension.load.__wrapped__)
    monkeypatch.setattr(extension, "ABSENCE", None)


def test_a_binary_that_does_not_load_says_what_was_built_with_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / building.FILE_NAME).write_bytes(b"no library")
    built = {"python": "3.9", "torch": "2.12.0", "torch_at_least": "2.11", "nvcc": "12.8.93", "compiler": "g++ 11.4"}
    (tmp_path / building.SIDECAR_NAME).write_text(json.dumps(built))
    monkeypatch.setattr(extension, "_FOLDER", tmp_path)
    with pytest.raises(ExtensionUnavailable) as caught:
        extension.information()
    assert "built with Python 3.9, torch 2.12.0 (for 2.11 and newer), CUDA 12.8.93, g++ 11.4" in str(caught.value)
    assert f"here are Python {platform.python_version()}, torch {torch.__version__}" in str(caught.value)


def test_an_absent_extension_raises_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "ABSENCE", "it was too warm")
    with pytest.raises(ExtensionUnavailable, match="it was too warm"):
        extension.load()


class TestAtFirstUse:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(extension, "_JIT", True)
        monkeypatch.setattr(
            building, "_torch", lambda: building.Torch(Path(torch.__file__).parent, torch.__version__, "13.0")
        )
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("SEQCA_CUDA_ARCHS", raising=False)
        for name, value in pretence.compilers(tmp_path, "13.0").items():
            monkeypatch.setenv(name, value)

    def _load(self) -> None:
        # What pretending compilers make is empty.
        with pytest.raises(ExtensionUnavailable, match="does not load"):
            extension.load()

    def test_it_is_compiled_once_and_again_when_a_compiler_is_another(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self._load()
        assert "compiling the CUDA C++ extension into" in capfd.readouterr().out
        self._load()
        assert capfd.readouterr().out == ""
        pretence.nvcc(tmp_path / "toolkit", "13.1", "exit 1")
        with pytest.raises(ExtensionUnavailable, match="cannot be built: a compiler failed"):
            extension.load()

    def test_a_build_that_was_interrupted_is_begun_again(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        folder = building.cache_folder(building.parameters())
        folder.mkdir(parents=True)
        (folder / f"{building.FILE_NAME}.123").write_bytes(b"half of it")
        self._load()
        assert "compiling" in capfd.readouterr().out
        assert (folder / building.FILE_NAME).is_file()

    def test_it_is_compiled_for_the_gpus_of_the_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gpus = [(9, 0), (8, 6), (9, 0)]
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: gpus[i])
        self._load()
        (sidecar,) = (tmp_path / "cache").glob(f"seqca/*/{building.SIDECAR_NAME}")
        assert json.loads(sidecar.read_text())["architectures"] == ["86", "90"]

    def test_what_is_missing_is_the_reason(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        with pytest.raises(ExtensionUnavailable, match=f"cannot be built: there is no nvcc on {tmp_path}"):
            extension.load()
        assert not os.path.exists(tmp_path / "cache")
