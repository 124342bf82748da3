"""Index maps, fragments and splits of the CUDA kernels, each over all its arguments."""

import subprocess
from pathlib import Path


def test_maps_are_those_of_the_instruction_set_and_cover_everything_once(built_maps: Path) -> None:
    result = subprocess.run([built_maps], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "all maps hold\n"
