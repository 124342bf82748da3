"""Kernels compiled ahead of time, with the specialisations of the launcher, for GPUs that need not be there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from seqca.kernels.compilation import SHARED_LIMIT, Resources
from seqca.kernels.launch import record
from seqca.kernels.predictions import Prediction
from seqca.kernels.resources import (
    cases_text,
    full_table,
    longest_launches,
    modules,
    predicted_table,
    sources,
    sources_hash,
    worst_table,
)

from seqca import use_backend
from seqca.ops.shared.operator import OPERATORS, Operator
from seqca.ops.verification.judge import leaves, rounded
from tests.test_layers import KERNELS, imported_modules

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "resources.md"


@pytest.fixture(scope="module")
def compiled() -> list[Resources]:
    """Made in a process in which Triton compiles instead of interpreting."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "seqca.kernels.resources", "--quick", "--json"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    rows = [Resources.parsed(line) for line in run.stdout.splitlines()]
    assert rows, run.stderr
    return rows


def test_kernels_spill_and_lose_nothing_fit_into_shared_memory_and_use_tensor_cores(compiled: list[Resources]) -> None:
    faults = [f"{r.kernel}, {r.shape}, {r.dtype}, sm_{r.arch}: {fault}" for r in compiled for fault in r.faults()]
    assert not faults, "\n".join(faults)


def test_the_target_shape_uses_the_matrix_instructions_of_each_generation(compiled: list[Resources]) -> None:
    target = [r for r in compiled if (r.shape, r.dtype) == ("C = 36, channels-last", "bfloat16")]
    used = {(r.arch, r.tensor_cores) for r in target if r.kernel.startswith("linear_attention")}
    assert used == {(80, "mma.sync"), (90, "wgmma"), (100, "tcgen05")}


def test_each_architecture_is_compiled_with_its_own_options(compiled: list[Resources]) -> None:
    found = {
        r.arch: r.warps
        for r in compiled
        if (r.kernel, r.shape, r.dtype) == ("linear_attention_backward_queries", "C = 60, list", "bfloat16")
    }
    assert found == {80: 8, 90: 4, 100: 8}


def launched(operator: Operator) -> set[str]:
    """The kernels that an operator launches, on all its samples, with few and with many channels."""
    with record() as launches, use_backend("triton"):
        for sampler in operator.samples.values():
            for channels in (36, 144):
                sample = rounded(sampler(16, channels, torch.Generator()), torch.float16, DEVICE)
                outputs = leaves(operator.function(**sample.arguments))
                sum(x.sum() for x in outputs).backward()
    return {launch.kernel.fn.__name__ for launch in launches}


@pytest.fixture(scope="module")
def kernels() -> dict[str, set[str]]:
    """Those of every operator."""
    return {name: launched(operator) for name, operator in OPERATORS.items() if "triton" in operator.backends}


def test_every_kernel_that_an_operator_launches_is_compiled_and_no_other(
    compiled: list[Resources], kernels: dict[str, set[str]]
) -> None:
    assert all(kernels.values())
    assert {r.kernel for r in compiled} == set().union(*kernels.values())


def test_a_kernel_is_named_after_its_operator_or_the_pyramid_that_two_share_and_the_pass(
    kernels: dict[str, set[str]],
) -> None:
    shared = kernels["aggregation_head"] & kernels["scale_aggregation"]
    for operator, names in kernels.items():
        for name in names:
            owner = "pyramid" if name in shared else operator
            assert name.startswith((f"{owner}_forward", f"{owner}_backward"))


def test_the_tests_compile_every_shape_or_kind_of_an_operator_somewhere() -> None:
    for module in modules().values():
        tested = [case for case in module.CASES if case.tested_on]
        words = {word for case in module.CASES for word in case.shape.split(", ")}
        assert words == {word for case in tested for word in case.shape.split(", ")}
        assert {case.dtype for case in tested} >= {torch.bfloat16, torch.float32}


def tables() -> list[list[list[str]]]:
    """The cells of the tables of the page, without their heads."""
    blocks = [block.splitlines() for block in PAGE.read_text().split("\n\n") if block.startswith("| ")]
    return [[line.strip("| ").split(" | ") for line in block[2:]] for block in blocks]


def test_the_page_of_resources_has_each_kernel_once_in_both_tables_and_tells_every_case(
    kernels: dict[str, set[str]],
) -> None:
    of_page = tables()
    assert len(of_page) == 2
    for rows in of_page:
        assert sorted(kernel for kernel, *_ in rows) == sorted(set().union(*kernels.values()))
    assert PAGE.read_text().endswith(cases_text())


def test_the_page_of_resources_is_made_of_these_sources() -> None:
    assert f"of sources {sources_hash()}" in PAGE.read_text(), "python -m seqca.kernels.resources > docs/resources.md"


def test_the_page_is_made_anew_where_anything_changes_that_kernels_use_of_the_package() -> None:
    modules = tuple(name.removesuffix(".py").replace("/", ".") + "." for name in sources())
    used = {name for file in KERNELS.rglob("*.py") for name in imported_modules(file, KERNELS, "seqca.kernels")}
    of_package = {name.removeprefix("seqca.") for name in used if name.startswith("seqca.")} - {"ops"}
    assert {name for name in of_package if not f"{name}.".startswith(("kernels.", *modules))} == set()
    assert len([name for name in modules if name.startswith("kernels.")]) == len(list(KERNELS.rglob("*.py")))


def test_no_kernel_issues_a_tenth_more_instructions_than_the_page_says_with_its_version_of_triton(
    compiled: list[Resources],
) -> None:
    said = {kernel: (case, float(instructions)) for kernel, case, instructions, *_ in tables()[1]}
    assert set(said) == {r.kernel for r in compiled}
    if f"with Triton {triton.__version__} " not in PAGE.read_text():
        return
    for kernel, (case, instructions) in said.items():
        longest = longest_launches([r for r in compiled if r.shape == case])
        assert kernel in longest, f"{kernel}, {case}: no prediction"
        found = longest[kernel].prediction
        assert found.instructions / found.tokens <= 1.1 * instructions, f"{kernel}, {case}"


def test_every_compute_capability_is_compiled_for(compiled: list[Resources]) -> None:
    assert {r.arch for r in compiled} == set(SHARED_LIMIT) == {80, 90, 100}


def test_faults_are_told() -> None:
    bad = Resources("k", "C = 1", "float16", 80, 4, registers=255, spills=8, shared=200_000, tensor_cores="none")
    assert len(bad.faults()) == 3
    assert Resources("k", "C = 1", "float32", 90, 4, 255, 0, 0, "none", lost=1).faults()
    assert not Resources("k", "C = 1", "float32", 90, 4, 255, 0, 200_000, "none").faults()
    assert not Resources("k", "C = 1", "float16", 90, 4, 255, 0, 200_000, "no products").faults()


def test_the_page_shows_of_each_kernel_the_case_that_takes_most_and_the_full_table_all() -> None:
    rows = [
        Resources("k", "C = 1", "float16", 80, 4, registers=40, spills=0, shared=2048, tensor_cores="none"),
        Resources("k", "C = 2", "float16", 80, 4, registers=50, spills=0, shared=0, tensor_cores="none"),
        Resources("k", "C = 3", "float32", 80, 8, registers=30, spills=8, shared=0, tensor_cores="none"),
        Resources("k", "C = 1", "float16", 90, 2, registers=40, spills=0, shared=2048, tensor_cores="none"),
    ]
    assert worst_table(rows).splitlines()[2:] == [
        "| k | 30 × 8, 8 bytes spill, 0 KiB, none: float32, C = 3 | 40 × 2, 2 KiB, none: float16, C = 1 |  |"
    ]
    assert [line.split(" | ")[1:3] for line in full_table(rows).splitlines()[2:]] == [
        ["C = 1", "float16"],
        ["C = 2", "float16"],
        ["C = 3", "float32"],
    ]


def predicted(kernel: str, shape: str, instructions: int, number_of_bytes: int) -> Resources:
    """A kernel of which nothing but that is told."""
    prediction = Prediction(1000, 1, 132, 4, instructions, 0, number_of_bytes)
    return Resources(kernel, shape, "bfloat16", 90, 4, 40, 0, 0, "none", prediction=prediction)


def test_predictions_begin_with_what_costs_most_beyond_its_bytes_and_show_the_longest_launch() -> None:
    rows = [
        predicted("of bytes", "C = 1", 10**6, 10**9),
        predicted("of instructions", "C = 1", 10**7, 10**6),
        predicted("of instructions", "C = 2", 10**8, 10**6),
    ]
    cells = [line.strip("| ").split(" | ") for line in predicted_table(rows).splitlines()[2:]]
    assert cells == [
        ["of instructions", "C = 2", "1e+05", "1000", "1", "4", "96 µs: instructions", "96 µs: instructions"],
        ["of bytes", "C = 1", "1000", "1e+06", "1", "4", "299 µs: bytes", "208 µs: bytes"],
    ]
