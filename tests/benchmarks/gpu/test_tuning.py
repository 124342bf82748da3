"""Launch parameters are tuned: which candidates there are, which is taken, and how it is written down."""

from collections.abc import Callable

import pytest
import torch
from seqca.kernels.compilation import SHARED_LIMIT
from seqca.kernels.launch import ByArchitecture
from seqca.kernels.linear_attention.cases import CASES, cases_of
from seqca.kernels.linear_attention.parameters import PARAMETERS, LaunchParameters, TileSizes

from benchmarks.cases.shapes import nyud
from benchmarks.gpu import tuning

SHIPPED = TileSizes(64, 64, 64, 8, 3)
FAST, FASTER, SLOW = (SHIPPED._replace(tokens=tokens) for tokens in (32, 16, 128))
SECONDS = {SHIPPED: 1.0, FAST: 0.5, FASTER: 0.25, SLOW: 2.0}


@pytest.mark.parametrize(
    ("shipped", "arch", "warps", "expected"),
    [
        (8, 90, 4, ByArchitecture(8, sm_90=4)),
        (8, 90, 8, 8),
        (ByArchitecture(8, sm_90=4), 100, 2, ByArchitecture(8, sm_90=4, sm_100=2)),
        (ByArchitecture(8, sm_90=4), 90, 8, 8),
        (8, 0, 4, 4),
    ],
)
def test_warps_change_on_the_architecture_that_was_timed_and_no_other(
    shipped: int | ByArchitecture, arch: int, warps: int, expected: int | ByArchitecture
) -> None:
    assert tuning.on_architecture(shipped, arch, warps) == expected


@pytest.mark.parametrize(
    ("fits", "taken"),
    [(lambda sizes: True, FASTER), (lambda sizes: sizes != FASTER, FAST), (lambda sizes: sizes == SLOW, SHIPPED)],
)
def test_the_fastest_is_taken_that_fits_everywhere(
    monkeypatch: pytest.MonkeyPatch, fits: Callable[[TileSizes], bool], taken: TileSizes
) -> None:
    now = LaunchParameters(SHIPPED, SHIPPED, SHIPPED, SHIPPED)
    monkeypatch.setitem(PARAMETERS[torch.float16], 64, now)
    monkeypatch.setattr(tuning, "KERNELS", ("queries",))
    monkeypatch.setattr(tuning, "compiled", lambda jobs: [FAST, FASTER, SLOW])
    monkeypatch.setattr(tuning, "timed", lambda *_: SECONDS[PARAMETERS[torch.float16][64].queries])
    monkeypatch.setattr(tuning, "fits_everywhere", lambda dtype, key, kernel, sizes: fits(sizes))
    data = nyud(1)._replace(height=32, width=32)
    tuning.tuned(torch.float16, 36, data, "cpu", dry=False)
    assert PARAMETERS[torch.float16][64] == now._replace(queries=taken)


def test_everywhere_means_all_layouts_that_are_compiled_on_all_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[tuple[int, object]] = []
    monkeypatch.setattr(tuning, "_fits", lambda job: jobs.append((job.arch, job.case)) or job.arch != 100)
    monkeypatch.setattr(tuning, "_side_by_side", lambda them: [tuning._fits(job) for job in them])
    assert not tuning.fits_everywhere(torch.bfloat16, 64, "queries", SHIPPED)
    assert len(jobs) == len(set(jobs)) == 10 * len(SHARED_LIMIT)


def test_the_cases_of_all_classes_are_all_cases() -> None:
    found = [case for dtype, classes in PARAMETERS.items() for key in classes for case in cases_of(dtype, key)]
    assert sorted(map(id, found)) == sorted(map(id, CASES))
    assert {case.shape.split(",")[0] for case in cases_of(torch.bfloat16, 64)} == {"C = 36", "C = 60"}


def test_the_patch_is_empty_where_nothing_is_faster_and_says_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuning.patch() == ""
    shipped = PARAMETERS[torch.bfloat16][64]
    chosen = shipped._replace(states=TileSizes(16, 64, 64, ByArchitecture(2, sm_90=4), 2))
    monkeypatch.setitem(PARAMETERS[torch.bfloat16], 64, chosen)
    added = [line for line in tuning.patch().splitlines() if line.startswith("+ ")]
    assert added == ["+            states=TileSizes(16, 64, 64, ByArchitecture(2, sm_90=4), 2),"]
