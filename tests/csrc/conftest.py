"""What is compiled once for the tests of this folder."""

from pathlib import Path

import pytest

from .host import EmulatedKernels, compile_on_host


@pytest.fixture(scope="session")
def emulated_kernels(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    """The CUDA kernels on the host."""
    library = tmp_path_factory.mktemp("csrc") / "emulation.so"
    return EmulatedKernels(compile_on_host("emulation.cpp", library, "-fPIC", "-shared"))


@pytest.fixture
def built_maps(tmp_path: Path) -> Path:
    """The program that goes through all index maps."""
    return compile_on_host("maps.cpp", tmp_path / "maps")
