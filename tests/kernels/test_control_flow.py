"""How often instructions are issued, by listings short enough to count by hand."""

import random

import pytest
from seqca.kernels.control_flow import DATA, ControlFlow, word
from seqca.kernels.disassembly import Instruction, parsed
from seqca.kernels.integer_instructions import SEMANTICS, signed


def flow(*lines: str) -> ControlFlow:
    """Of instructions 16 bytes long."""
    return ControlFlow(parsed(f"/*{16 * i:04x}*/ {line} ;" for i, line in enumerate(lines)))


LOOP = (
    "ULDC UR4, c[0x0][0x210]",
    "S2R R0, SR_CTAID.X",
    "VIADD R0, R0, 0x2",
    "FADD R4, R4, 1",
    "ISETP.GE.AND P0, PT, R0, UR4, PT",
    "@!P0 BRA 0x20",
    "EXIT",
)


@pytest.mark.parametrize(("program", "end", "times"), [(0, 7, 4), (0, 8, 4), (3, 8, 3), (9, 8, 1)])
def test_a_loop_runs_as_often_as_its_program_and_arguments_say(program: int, end: int, times: int) -> None:
    issued = flow(*LOOP).issued({"SR_CTAID.X": program, word(0x210): end})
    assert issued["FADD"] == times
    assert sum(issued.values()) == 3 + 4 * times


def test_an_instruction_is_read_from_the_line_of_a_listing() -> None:
    line = "        /*0280*/              @!P4 IMAD.IADD R5, R5.reuse, 0x1, -R30 ;      /* 0x0000000105057824 */"
    assert parsed([line, "", "\t\tFunction : f"]) == [
        Instruction(0x280, "!P4", "IMAD.IADD", ("R5", "R5.reuse", "0x1", "-R30"))
    ]


def test_a_branch_on_data_skips_what_it_can() -> None:
    lines = ("LDG.E R0, [R2.64]", "FSETP.GT.AND P0, PT, R0, 1, PT", "@P0 BRA 0x40", "FADD R0, R0, 1", "EXIT")
    assert sum(flow(*lines).issued({}).values()) == 4


def test_a_loop_that_data_ends_and_a_branch_that_is_not_understood_are_refused() -> None:
    with pytest.raises(ValueError, match="0x50: got data"):
        flow(*LOOP).issued({"SR_CTAID.X": 0, word(0x210): DATA})
    with pytest.raises(ValueError, match="not understood"):
        flow("NEW P0, R1", "@P0 BRA 0x0", "EXIT").issued({})


def test_a_branch_on_data_inside_a_loop_skips_in_every_turn_and_one_out_of_the_loop_is_refused() -> None:
    inside = (*LOOP[:3], "LDG.E R4, [R2.64]", "FSETP.GT.AND P1, PT, R4, 1, PT")
    end = ("ISETP.GE.AND P0, PT, R0, UR4, PT", "@!P0 BRA 0x20", "FMUL R4, R4, 1", "EXIT")
    known = {"SR_CTAID.X": 0, word(0x210): 8}
    issued = flow(*inside, "@P1 BRA 0x70", "FADD R4, R4, 1", *end).issued(known)
    assert (issued["FADD"], issued["LDG.E"], issued["FMUL"]) == (0, 4, 1)
    with pytest.raises(ValueError, match="0x50: got data"):
        flow(*inside, "@P1 BRA 0x90", "FADD R4, R4, 1", *end).issued(known)


def test_a_shuffle_from_the_first_lane_is_known_and_one_from_another_is_data() -> None:
    def shuffled(lane: str) -> ControlFlow:
        return flow(LOOP[0], LOOP[1], f"SHFL.IDX PT, R0, R0, {lane}, 0x1f", LOOP[2], LOOP[4], "@!P0 BRA 0x30", "EXIT")

    assert shuffled("RZ").issued({"SR_CTAID.X": 0, word(0x210): 6})["VIADD"] == 3
    with pytest.raises(ValueError, match="got data"):
        shuffled("R1").issued({"SR_CTAID.X": 0, word(0x210): 6})


@pytest.mark.parametrize(
    ("writes", "last"),
    [
        ("LDG.E R8, [R2.64]", 8),
        ("LDG.E.64 R8, [R2.64]", 9),
        ("LDS.128 R8, [R2]", 11),
        ("LDSM.16.M88.4 R8, [R2]", 11),
        ("HMMA.16816.F32.BF16 R8, R4, R2, RZ", 11),
        ("HMMA.16816.F16 R8, R4, R2, RZ", 9),
        ("HGMMA.64x16x16.F32.BF16 R8, gdesc[UR4], RZ", 15),
    ],
)
def test_every_register_that_a_load_or_a_product_writes_is_data(writes: str, last: int) -> None:
    def turns(register: int) -> int:
        bound = f"MOV R{register}, 0x6"
        compare = f"ISETP.GE.AND P0, PT, R0, R{register}, PT"
        return flow(LOOP[1], bound, writes, LOOP[2], compare, "@!P0 BRA 0x30", "EXIT").issued({"SR_CTAID.X": 0})[
            "VIADD"
        ]

    with pytest.raises(ValueError, match="got data"):
        turns(last)
    assert turns(last + 1) == 3


def test_a_table_among_the_arguments_is_indexed_and_a_missing_predicate_leaves_the_register() -> None:
    lines = (
        "S2UR UR5, SR_CTAID.X",
        "USHF.L.U32 UR5, UR5, 0x2, URZ",
        "ULDC UR4, c[0x0][UR5+0x210]",
        "ISETP.EQ.AND P1, PT, RZ, RZ, PT",
        "@!P1 MOV R0, 0x64",
        "HFMA2.MMA R0, -RZ, RZ, 0, 5.9604644775390625e-08",
        *LOOP[3:4],
        "VIADD R0, R0, 0x1",
        "ISETP.GT.AND P0, PT, R0, UR4, PT",
        "@!P0 BRA 0x60",
        "EXIT",
    )
    assert flow(*lines).issued({"SR_CTAID.X": 1, word(0x210): 50, word(0x214): 6})["FADD"] == 6


def test_integers_are_divided_as_compilers_do_it() -> None:
    lines = (
        "LDC R0, c[0x0][0x210]", "LDC R1, c[0x0][0x214]", "I2F.U32.RP R2, R1", "MUFU.RCP R2, R2",
        "VIADD R2, R2, 0xffffffe", "F2I.FTZ.U32.TRUNC.NTZ R3, R2", "IMAD.MOV.U32 R2, RZ, RZ, RZ",
        "IMAD.MOV R4, RZ, RZ, -R3", "IMAD R4, R4, R1, RZ", "IMAD.HI.U32 R3, R3, R4, R2", "IMAD.HI.U32 R3, R3, R0, RZ",
        "IMAD.MOV R4, RZ, RZ, -R3", "IMAD R4, R1, R4, R0", "ISETP.GE.U32.AND P0, PT, R4, R1, PT",
        "@P0 IMAD.IADD R4, R4, 0x1, -R1", "@P0 VIADD R3, R3, 0x1", "ISETP.GE.U32.AND P0, PT, R4, R1, PT",
        "@P0 VIADD R3, R3, 0x1", "VIADD R3, R3, 0xffffffff", "ISETP.GE.AND P0, PT, R3, RZ, PT", "@P0 BRA 0x120", "EXIT",
    )  # fmt: skip
    divide = flow(*lines)
    for dividend, divisor in ((100, 7), (19200, 64), (63, 64), (700, 1), (1199, 13)):
        assert divide.issued({word(0x210): dividend, word(0x214): divisor})["BRA"] == dividend // divisor + 1


def test_sums_of_pairs_carry_and_differences_borrow() -> None:
    draw = random.Random(0)
    for _ in range(100):
        a, b = draw.getrandbits(64), draw.getrandbits(64)
        none: frozenset[str] = frozenset()
        low = SEMANTICS["IADD3"](none, a % 2**32, 2**32 - b % 2**32, 0)
        high = SEMANTICS["IADD3"](none, a >> 32, 2**32 - 1 - (b >> 32), 0, low >= 2**32)
        assert (low % 2**32) + (high % 2**32 << 32) == (a - b) % 2**64


def test_pairs_are_compared_word_by_word() -> None:
    draw = random.Random(0)
    for _ in range(200):
        a, b = (signed(draw.choice([draw.getrandbits(64), 2**32, 5, 2**64 - 3]), 64) for _ in range(2))
        for name, expected in (("LT", a < b), ("LE", a <= b), ("GT", a > b), ("GE", a >= b), ("EQ", a == b)):
            lower, _ = SEMANTICS["ISETP"](frozenset({name, "U32", "AND"}), a % 2**32, b % 2**32, True)
            whole, opposite = SEMANTICS["ISETP"](
                frozenset({name, "AND", "EX"}), (a >> 32) % 2**32, (b >> 32) % 2**32, True, lower
            )
            assert (whole, opposite) == (expected, not expected)


@pytest.mark.parametrize(
    ("opcode", "suffixes", "operands", "result"),
    [
        ("IMAD", "WIDE", (2**32 - 2, 3, 1), 2**64 - 5),
        ("IMAD", "WIDE U32", (2**32 - 2, 3, 1), 3 * (2**32 - 2) + 1),
        ("IMAD", "", (None, 0, 7), 7),
        ("LEA", "", (3, 5, 4), 53),
        ("LEA", "HI", (2**31, 5, 0, 1), 6),
        ("LEA", "HI X SX32", (2**32 - 1, 5, 1, True), 2**32 - 1 + 5 + 1),
        ("SHF", "R S32 HI", (0, 31, 2**31), 2**32 - 1),
        ("SHF", "R U32 HI", (0, 31, 2**31), 1),
        ("SHF", "L U64 HI", (2**31, 1, 2), 5),
        ("LOP3", "LUT", (0b1100, 0b1010, 0, 0xC0), 0b1000),
        ("LOP3", "LUT", (0b1100, 0b1010, 0, 0x3C), 0b0110),
        ("VIMNMX", "", (2**32 - 1, 3, True), 2**32 - 1),
        ("VIMNMX", "U32", (2**32 - 1, 3, True), 3),
        ("VIADDMNMX", "", (3, 4, 5, False), 7),
        ("PRMT", "", (0x44332211, 0x5410, 0x88776655), 0x66552211),
        ("SGXT", "", (0b1100, 3), 2**32 - 4),
        ("SGXT", "U32", (0b1100, 3), 4),
        ("PLOP3", "LUT", (True, None, True, 0x80, 0x00), (None, False)),
    ],
)
def test_instructions_compute(opcode: str, suffixes: str, operands: tuple[object, ...], result: object) -> None:
    assert SEMANTICS[opcode](frozenset(suffixes.split()), *operands) == result
