"""What a launch asks of a GPU, from its opcodes, registers and tensors."""

import pytest
import torch
from seqca.kernels.launch import Launch
from seqca.kernels.predictions import Prediction, bytes_of, resident, tensor_cycles


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "programs"),
    [(32, 0, 4, 16), (255, 0, 8, 1), (168, 0, 2, 6), (16, 0, 1, 32), (64, 100 * 1024, 4, 2), (64, 227 * 1024, 4, 1)],
)
def test_programs_of_a_multiprocessor_are_bounded_by_registers_shared_memory_and_warps(
    registers: int, shared: int, warps: int, programs: int
) -> None:
    assert resident(registers, shared, warps) == programs


@pytest.mark.parametrize(
    ("opcode", "cycles"),
    [
        ("HGMMA.64x64x16.F32.BF16", 32),
        ("HGMMA.64x8x8.F32.TF32", 4),
        ("HMMA.16816.F32.BF16", 4),
        ("HMMA.1688.F32", 2),
        ("FFMA", 0),
    ],
)
def test_products_take_the_cycles_of_a_tensor_core(opcode: str, cycles: float) -> None:
    assert tensor_cycles(opcode) == cycles


def test_a_tensor_counts_once_as_it_stands_in_memory_and_a_slice_as_its_own_part() -> None:
    x = torch.empty(4, 100, device="meta")
    rows = ((x, 100), (x, 100), (x[:2], 100), (torch.empty(100, device="meta").expand(4, 100), 0))
    assert bytes_of(Launch(None, (1,), {"maps": rows, "n": 4}, {})) == 4 * (400 + 200 + 100)


def test_the_limit_is_what_takes_longest_on_the_multiprocessors_that_have_programs() -> None:
    whole = Prediction(1, 1, 132, 1, 132 * 4 * 1980, 0, 3_350)
    assert whole.predicted("H100") == (pytest.approx(1), "instructions")
    assert whole.microseconds("H100")["bytes"] == pytest.approx(1e-3)
    assert whole.beyond_bytes("H100") == pytest.approx(1 - 1e-3)
    single = Prediction(1, 1, 1, 1, 132 * 4 * 1980, 0, 3_350)
    assert single.predicted("H100") == (pytest.approx(132), "instructions")
    assert Prediction(1, 1, 132, 1, 1, 2 * 132 * 4 * 1980, 0).predicted("H200") == (pytest.approx(2), "tensor cores")
