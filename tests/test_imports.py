"""What an import loads, and what it does not."""

import subprocess
import sys

import pytest

import seqca.data


def loaded_by(statement: str) -> set[str]:
    """The modules that are there after a statement in a fresh process."""
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    "module", ["seqca.models", "seqca.losses", "seqca.metrics", "seqca.data", "seqca.data.transforms"]
)
def test_an_import_that_needs_no_rooms_does_not_load_their_renderer(module: str) -> None:
    assert not [name for name in loaded_by(f"import {module}") if name.startswith("seqca.data.rooms")]


def test_every_public_name_of_the_data_package_is_there() -> None:
    assert all(hasattr(seqca.data, name) for name in seqca.data.__all__)
    with pytest.raises(AttributeError, match="Roms"):
        _ = seqca.data.Roms


def test_importing_the_package_loads_neither_triton_nor_lightning_nor_timm() -> None:
    assert not loaded_by("import seqca") & {"triton", "lightning", "timm", "torchvision"}


def test_importing_the_network_loads_neither_the_renderer_of_rooms_nor_lightning() -> None:
    loaded = loaded_by("import seqca.models, seqca.losses")
    assert not [name for name in loaded if name.startswith(("seqca.data", "lightning"))]
