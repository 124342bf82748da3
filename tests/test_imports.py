"""What an import loads, and what it does not."""

import subprocess
import sys

import pytest

import seqca.data


@pytest.mark.parametrize(
    "module", ["seqca.models", "seqca.losses", "seqca.metrics", "seqca.data", "seqca.data.transforms"]
)
def test_an_import_that_needs_no_rooms_does_not_load_their_renderer(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in sys.modules if name.startswith('seqca.data.rooms')))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_every_public_name_of_the_data_package_is_there() -> None:
    assert all(hasattr(seqca.data, name) for name in seqca.data.__all__)
    with pytest.raises(AttributeError, match="Roms"):
        _ = seqca.data.Roms
