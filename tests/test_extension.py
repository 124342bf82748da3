"""What is said where the CUDA C++ extension is missing."""

from pathlib import Path

import pytest

from seqca import building, extension
from seqca.extension import ExtensionUnavailable


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installation without the extension."""
    monkeypatch.setattr(extension, "_FOLDER", tmp_path)
    monkeypatch.setattr(extension, "_JIT", False)
    monkeypatch.setattr(extension, "load", extension.load.__wrapped__)
    return tmp_path


def test_the_reason_of_the_installation_is_remembered(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    building.note_skipped(elsewhere, "there is no nvcc")
    reason = extension._absence()
    assert reason == "the extension seqca._C is not built: there is no nvcc (docs/building.md)"
    monkeypatch.setattr(extension, "ABSENCE", reason)
    with pytest.raises(ExtensionUnavailable, match="there is no nvcc"):
        extension.load()


def test_an_unknown_reason_is_none() -> None:
    assert extension._absence() == "the extension seqca._C is not built (docs/building.md)"


def test_skipping_removes_an_older_binary(elsewhere: Path) -> None:
    (elsewhere / building.FILE_NAME).touch()
    assert extension._absence() is None
    building.note_skipped(elsewhere, "it is not wanted")
    assert "it is not wanted" in str(extension._absence())


def test_a_build_at_first_use_that_is_impossible_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(**_: object) -> building.BuildParameters:
        raise building.CannotBuild("nvcc is of CUDA 12.8")

    monkeypatch.setattr(extension, "_JIT", True)
    monkeypatch.setattr(extension, "ABSENCE", extension._absence())
    monkeypatch.setattr(building, "parameters", impossible)
    assert extension.ABSENCE is None
    with pytest.raises(ExtensionUnavailable, match=r"cannot be built: nvcc is of CUDA 12\.8"):
        extension.load()
