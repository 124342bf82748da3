"""Where the extension cannot be built, the package installs without it and says why; see docs/building.md."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqca import building
from seqca.building import CannotBuild

from . import pretence
from .host import ROOT, source_tree

HOST = {"PATH": os.environ["PATH"]}


@pytest.fixture
def cuda_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch with CUDA 13, whichever is installed."""
    monkeypatch.setattr(building, "_torch", lambda: building.Torch(Path("/torch"), "2.11.0", "13.0"))


@pytest.mark.usefixtures("cuda_torch")
class TestReasons:
    def test_without_nvcc(self, tmp_path: Path) -> None:
        with pytest.raises(CannotBuild, match="no nvcc on the PATH, and CUDA_HOME is not set"):
            building.parameters({"PATH": str(tmp_path)})

    def test_cuda_home_without_nvcc(self, tmp_path: Path) -> None:
        with pytest.raises(CannotBuild, match="which CUDA_HOME names"):
            building.parameters({**HOST, "CUDA_HOME": str(tmp_path)})

    def test_nvcc_of_another_major_version_than_torch(self, tmp_path: Path) -> None:
        pretence.nvcc(tmp_path, "12.8")
        with pytest.raises(CannotBuild, match=r"nvcc is of CUDA 12\.8\.1, torch 2\.11\.0 of CUDA 13\.0"):
            building.parameters({**HOST, "CUDA_HOME": str(tmp_path)})

    def test_something_that_is_not_nvcc(self, tmp_path: Path) -> None:
        pretence.script(tmp_path / "bin" / "nvcc", "echo hello")
        with pytest.raises(CannotBuild, match="does not answer like nvcc"):
            building.parameters({**HOST, "CUDA_HOME": str(tmp_path)})

    def test_without_a_host_compiler(self, tmp_path: Path) -> None:
        pretence.nvcc(tmp_path, "13.0")
        with pytest.raises(CannotBuild, match="no C"):
            building.parameters({**HOST, "CUDA_HOME": str(tmp_path), "CXX": "no-such-compiler"})

    def test_without_enough_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pretence.nvcc(tmp_path, "13.0")
        monkeypatch.setattr(building, "_free_memory", lambda: 2**29)
        monkeypatch.setattr(building, "_ninja", lambda environment: "ninja")
        with pytest.raises(CannotBuild, match=r"0\.5 GiB of memory are free, compiling takes 1"):
            building.parameters({**HOST, "CUDA_HOME": str(tmp_path)})

    @pytest.mark.parametrize("architectures", ["70", "90a", "hopper", "80;;90"])
    def test_architectures_that_the_kernels_do_not_know(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architectures: str
    ) -> None:
        pretence.nvcc(tmp_path, "13.0")
        monkeypatch.setattr(building, "_ninja", lambda environment: "ninja")
        with pytest.raises(CannotBuild, match="SEQCA_CUDA_ARCHS: got"):
            building.parameters({**HOST, "CUDA_HOME": str(tmp_path), "SEQCA_CUDA_ARCHS": architectures})


@pytest.fixture
def here(tmp_path: Path, cuda_torch: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which everything needed is there."""
    pretence.nvcc(tmp_path / "toolkit", "13.0")
    monkeypatch.setattr(building, "_ninja", lambda environment: "ninja")
    monkeypatch.setattr(building, "_free_memory", lambda: 2**40)
    return {**HOST, "CUDA_HOME": str(tmp_path / "toolkit")}


def test_torch_without_cuda_or_out_of_sight_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(building, "find_spec", lambda name: None)
    with pytest.raises(CannotBuild, match="--no-build-isolation"):
        building.parameters(HOST)
    (tmp_path / "version.py").write_text("__version__ = '2.11.0+cpu'\ncuda = None\n")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(building, "find_spec", lambda name: spec)
    with pytest.raises(CannotBuild, match="without CUDA"):
        building.parameters(HOST)


def test_a_script_named_nvcc_leads_to_the_toolkit_that_it_calls(here: dict[str, str], tmp_path: Path) -> None:
    real = Path(here.pop("CUDA_HOME"))
    pretence.script(tmp_path / "wrapper" / "nvcc", f'exec {real}/bin/nvcc "$@"')
    here["PATH"] = f"{tmp_path / 'wrapper'}{os.pathsep}{here['PATH']}"
    toolkit = building.parameters(here).toolkit
    assert toolkit == building.Toolkit(real, real / "bin" / "nvcc", "13.0.1")


def test_the_switches_are_obeyed(here: dict[str, str]) -> None:
    chosen = building.parameters({**here, "SEQCA_CUDA_ARCHS": "9.0;80", "MAX_JOBS": "5"})
    assert chosen.architectures == ("80", "90")
    assert chosen.jobs == 5
    assert building.parameters(here).architectures == building.ARCHITECTURES
    assert building.parameters(here, ("89",)).architectures == ("89",)


def test_a_number_of_jobs_that_is_none_is_a_reason_not_to_build(here: dict[str, str]) -> None:
    with pytest.raises(CannotBuild, match="MAX_JOBS: got 'all', expected a number"):
        building.parameters({**here, "MAX_JOBS": "all"})


def test_no_flag_asks_for_fast_mathematics(here: dict[str, str]) -> None:
    chosen = building.parameters(here)
    flags = " ".join((*chosen.nvcc_flags, *chosen.compiler_flags))
    assert not any(word in flags for word in ("fast", "-ftz", "-prec", "-Ofast", "-fmad"))


def test_the_cache_knows_sources_and_parameters(
    here: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(building._sources(), tmp_path / "csrc")
    monkeypatch.setattr(building, "_sources", lambda: tmp_path / "csrc")
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = building.cache_folder(building.parameters(here), cache)
    assert first.parent == tmp_path / "cache" / "seqca"
    assert building.cache_folder(building.parameters(here), cache) == first
    assert building.cache_folder(building.parameters({**here, "SEQCA_CUDA_ARCHS": "90"}), cache) != first
    for name in (building.SOURCES[0], "shared/tiles.h"):
        before = building.cache_folder(building.parameters(here), cache)
        with (tmp_path / "csrc" / name).open("a") as source:
            source.write("// another\n")
        assert building.cache_folder(building.parameters(here), cache) != before


@pytest.fixture
def cuda() -> str:
    """The version of CUDA that the torch here is of, as it takes to come as far as the compilers."""
    if torch.version.cuda is None:
        pytest.skip("this torch is a build without CUDA, which is itself a reason; the reasons are tested above")
    return torch.version.cuda


def _wheel(tmp_path: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(tmp_path / "dist")]
    tree = source_tree(tmp_path / "tree")
    result = subprocess.run(command, cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True)
    return result, sorted((tmp_path / "dist").glob("*.whl"))


def _sidecar(wheel: Path, folder: Path) -> dict[str, str]:
    shutil.unpack_archive(wheel, folder, "zip")
    for name in ("kernels", "csrc"):
        sources = {path.relative_to(ROOT / name) for path in (ROOT / name).rglob("*.*") if path.suffix != ".pyc"}
        assert sources == {path.relative_to(folder / "seqca" / name) for path in (folder / "seqca" / name).rglob("*.*")}
    assert not (folder / "seqca" / building.FILE_NAME).exists()
    return json.loads((folder / "seqca" / building.SIDECAR_NAME).read_text())


def test_a_wheel_without_the_extension_serves_every_machine_and_says_why_once(tmp_path: Path) -> None:
    result, wheels = _wheel(tmp_path, SEQCA_BUILD="0")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("installed without its CUDA C++ extension: SEQCA_BUILD=0") == 1
    assert [w.name.split("-", 2)[2] for w in wheels] == ["py3-none-any.whl"]
    assert "SEQCA_BUILD=0" in _sidecar(wheels[0], tmp_path / "unpacked")["skipped"]


def test_a_wheel_made_without_nvcc_is_imported_and_repeats_the_reason(tmp_path: Path, cuda: str) -> None:
    result, wheels = _wheel(tmp_path, CUDA_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    reason = f"there is no nvcc on {tmp_path}/bin, which CUDA_HOME names"
    assert result.stderr.count(f"installed without its CUDA C++ extension: {reason}") == 1
    unpacked = tmp_path / "unpacked"
    assert _sidecar(wheels[0], unpacked)["skipped"] == reason
    command = [sys.executable, "-c", "import seqca.extension as x; print(x.__file__); print(x.ABSENCE)"]
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    imported = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True)
    assert imported.returncode == 0, imported.stderr
    file, absence = imported.stdout.splitlines()
    assert Path(file) == unpacked / "seqca" / "extension.py"
    assert absence == f"the extension seqca._C is not built: {reason} (docs/building.md)"


def test_a_compiler_that_fails_does_not_fail_the_installation_unless_asked(tmp_path: Path, cuda: str) -> None:
    pretence.nvcc(tmp_path / "toolkit", cuda)
    compiler = pretence.script(tmp_path / "c++", 'case "$*" in *-dump*) echo 12;; *) sleep 1;; esac')
    demanding = {"CUDA_HOME": str(tmp_path / "toolkit"), "CXX": str(compiler)}
    result, wheels = _wheel(tmp_path, **demanding)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("installed without its CUDA C++ extension: a compiler failed") == 1
    assert "unsupported host compiler" in _sidecar(wheels[0], tmp_path / "unpacked")["skipped"]
    shutil.rmtree(tmp_path / "tree")
    shutil.rmtree(tmp_path / "dist")
    result, wheels = _wheel(tmp_path, **demanding, SEQCA_BUILD="1")
    assert result.returncode != 0 and not wheels
    assert "SEQCA_BUILD=1 was set, but a compiler failed" in result.stderr


def test_a_wheel_with_the_extension_is_of_the_machine_and_carries_with_what_it_was_built(
    tmp_path: Path, cuda: str
) -> None:
    result, wheels = _wheel(tmp_path, **pretence.compilers(tmp_path, cuda), SEQCA_BUILD="1")
    assert result.returncode == 0, result.stderr
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert [w.name.split("-")[2:4] for w in wheels] == [[python, python]]
    assert "linux" in wheels[0].name or "win" in wheels[0].name or "macosx" in wheels[0].name
    shutil.unpack_archive(wheels[0], tmp_path / "unpacked", "zip")
    package = tmp_path / "unpacked" / "seqca"
    assert (package / building.FILE_NAME).is_file()
    assert json.loads((package / building.SIDECAR_NAME).read_text())["torch"] == torch.__version__


def test_an_editable_build_leaves_the_extension_in_the_source_tree(tmp_path: Path, cuda: str) -> None:
    tree = source_tree(tmp_path / "tree")
    environment = {**os.environ, **pretence.compilers(tmp_path, cuda), "SEQCA_BUILD": "1"}
    command = [sys.executable, "setup.py", "-q", "editable_wheel", "--dist-dir", str(tmp_path / "dist")]
    result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tree / "seqca" / building.FILE_NAME).is_file()
    assert "torch" in json.loads((tree / "seqca" / building.SIDECAR_NAME).read_text())
