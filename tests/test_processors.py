"""Whether libraries obey where a processor is to pretend that it is another: `tests/processors.py`."""

import pytest

from tests.processors import disobedience

HELD = """ATen AVX2
onednn_verbose,v1,info,cpu,isa:Intel AVX2
MKL_VERBOSE SGEMM(N,N,64,64,64,0x7ffc,0x55d8,64,0x55d8,64,0x7ffc,0x55d8,64) 12.00ms CNR:AVX2 Dyn:1
"""


def test_libraries_that_do_as_they_are_told_are_obedient() -> None:
    assert disobedience("AVX2", HELD, onednn=True, mkl=True) == []


@pytest.mark.parametrize("library", ["ATen", "oneDNN", "MKL"])
def test_a_library_that_uses_something_else_is_named(library: str) -> None:
    lines = {"ATen": "ATen AVX2", "oneDNN": "isa:Intel AVX2", "MKL": "CNR:AVX2"}
    answer = HELD.replace(lines[library], lines[library].replace("AVX2", "AVX512"))
    assert disobedience("AVX2", answer, onednn=True, mkl=True) == [f"AVX2: {library} uses AVX512 instead of AVX2"]


def test_a_library_that_tells_nothing_is_not_taken_for_obedient() -> None:
    (fault,) = disobedience("AVX2", HELD.replace("isa:", ""), onednn=True, mkl=True)
    assert fault == "AVX2: oneDNN uses nothing that it tells instead of AVX2"


def test_what_torch_does_not_have_is_not_asked() -> None:
    assert disobedience("AVX2", "ATen AVX2", onednn=False, mkl=False) == []
