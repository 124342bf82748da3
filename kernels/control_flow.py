"""How often a warp issues the instructions of a kernel: its listing, followed as the first thread would.

Nothing but the listing says how many that are, with the loops that the assembler has unrolled, run ahead or cut off.
What decides branches is computed: integer arithmetic on the arguments, the program and the thread. A branch that turns
on data, on memory or floating point, is taken to skip what it can, as around the rare cases of a division; of a loop
that would end by data, at its end or from its middle, nothing can be said. For sm_90.
"""

import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .disassembly import Instruction
from .integer_instructions import OF_UNKNOWN, SEMANTICS, WORD

ARGUMENTS = 0x210
"""Where the arguments of a kernel begin in constant memory."""

DATA = object()
"""The value of what depends on memory or floating point."""

State = dict[str, Any]
"""Words and predicates, or DATA, by the names of registers, special registers and words of constant memory.

Missing is what no instruction has written, or one that is not understood.
"""

_MOST_BLOCKS = 1_000_000
_FIXED = {"RZ": 0, "URZ": 0, "SRZ": 0, "PT": True, "UPT": True}
_ALL_PREDICATES = {"PR": [f"P{i}" for i in range(7)], "UPR": [f"UP{i}" for i in range(7)]}
_BRANCHES = {"BRA", "CALL", "EXIT", "RET"}
_COMPARISONS = {"ISETP", "FSETP", "DSETP", "HSETP2", "PLOP3"}
_OF_DATA = re.compile(
    r"LD[GSL]|LDSM|[FHD](ADD|MUL|FMA|SETP|SEL|MNMX|CHK)|[HV]+MNMX|MUFU|F2|I2F|H?F2FP|SHFL|REDUX|ATOM|QGMMA|HG?MMA"
)
_PREDICATE = re.compile(r"U?P(\d|T)")
_REGISTER = re.compile(r"U?R(\d+|Z)")
_OPERAND = re.compile(
    r"(?P<sign>[-~!]?)(?:(?P<number>0x[0-9a-f]+)"
    r"|(?P<name>SR_\w+(\.[XYZ])?|SRZ|c\[0x0\]\[0x[0-9a-f]+\]|U?[RP](\d+|Z|T))(\.reuse)?)"
)

_ENTRY = re.compile(r"c\[0x0\]\[(U?R\d+)(?:\+(-?0x[0-9a-f]+))?\]")

_Source = tuple[str, str]
"""Sign and name of an operand; a number is its own name, and what is not understood has none."""


def word(offset: int) -> str:
    """The name of a word of constant memory."""
    return f"c[0x0][{offset:#x}]"


def _next(name: str) -> str:
    """The upper half of a pair of registers or words of constant memory."""
    if name.startswith("c["):
        return word(int(name[7:-1], 16) + 4)
    digits = re.search(r"\d+$", name)
    return name[: digits.start()] + str(int(digits[0]) + 1) if digits and not name.startswith("0x") else "RZ"


def _source(text: str) -> _Source:
    match = _OPERAND.fullmatch(text)
    return (match["sign"], match["number"] or match["name"]) if match else ("", "")


def _read(state: State, source: _Source) -> Any:
    """What an operand is; None where that is not understood."""
    sign, name = source
    if name in _ALL_PREDICATES:
        bits = [state.get(x) for x in _ALL_PREDICATES[name]]
        return DATA if DATA in bits else sum(bool(x) << i for i, x in enumerate(bits))
    value = int(name, 16) if name.startswith("0x") else state.get(name)
    if value is None or value is DATA or not sign:
        return value
    return not value if sign == "!" else WORD - value if sign == "-" else WORD - 1 - value


def _base(opcode: str) -> str:
    """An opcode without suffixes; what a warp executes as one is named like what its threads execute."""
    base = opcode.split(".")[0]
    return base[1:] if base[0] == "U" and base[1:] in {*SEMANTICS, "LDC"} else base


class _Operation:
    """What an instruction does to a `State`."""

    def __init__(self, instruction: Instruction) -> None:
        base = _base(instruction.opcode)
        operands = list(instruction.operands)
        self._suffixes = frozenset(instruction.opcode.split(".")[1:])
        self._guard = _source(instruction.guard) if instruction.guard else None
        self._function = SEMANTICS.get(base)
        if base == "SHFL" and ("IDX" not in self._suffixes or operands[3] not in ("RZ", "0x0")):
            self._function = None  # but from the first lane
        if base == "MUFU" and "RCP" not in self._suffixes:
            self._function = None
        self._data = self._function is None and _OF_DATA.match(base) is not None
        self._predicates = self._taken(operands)
        compares = base in _COMPARISONS
        self._register = operands.pop(0) if not compares and operands and _REGISTER.fullmatch(operands[0]) else ""
        carries = self._register and base in ("IADD3", "LEA", "IMAD") and "X" not in self._suffixes
        self._carries = self._taken(operands) if carries else []
        self._wide = bool(self._suffixes & {"WIDE", "64", "128", "F64"}) or base in ("DADD", "DMUL", "DFMA")
        self._wide |= base == "CS2R" and "32" not in self._suffixes
        self._width = _registers_written(instruction.opcode) if self._data else 2 if self._wide else 1
        self._sources = [_source(x) for x in operands]
        self._copies = base in ("LDC", "CS2R")
        entry = _ENTRY.fullmatch(operands[0]) if base == "LDC" else None
        self._offset = int(entry[2] or "0", 16) if entry else None
        if entry:
            self._sources = [("", entry[1])]
        if base in ("P2R", "UP2UR"):
            self._sources[0] = "", operands[0]
        self._literal = _halves(operands) if base == "HFMA2" else None
        self._pair = base == "IMAD" and bool(self._suffixes & {"WIDE", "HI"})
        if self._pair:
            self._sources.insert(3, ("", _next(self._sources[2][1])))

    @staticmethod
    def _taken(operands: list[str]) -> list[str]:
        """Takes the predicates away with which the operands begin, two at most: they are results."""
        count = 0
        while count < min(len(operands), 2) and _PREDICATE.fullmatch(operands[count]):
            count += 1
        taken, operands[:] = operands[:count], operands[count:]
        return taken

    def results(self) -> set[str]:
        """Names that it writes."""
        names, register = {*self._predicates, *self._carries}, self._register
        for _ in range(self._width if register else 0):
            names.add(register)
            register = _next(register)
        return names - {*_FIXED}

    def needs(self) -> set[str]:
        """Names that results depend on, as far as they are computed."""
        sources = self._sources if self._function or self._copies else []
        names = {x for _, name in sources for x in _ALL_PREDICATES.get(name, [name])}
        if self._copies and self._wide and self._offset is None:
            names |= {_next(name) for name in names}
        return names | ({self._guard[1]} if self._guard else set())

    def run(self, state: State) -> None:
        """Execute it."""
        executed = _read(state, self._guard) if self._guard else True
        if executed is False:
            return
        values = self._values(state) if executed is True else dict.fromkeys(self.results(), executed)
        for name, value in values.items():
            if name in _FIXED:
                continue
            if value is None:
                state.pop(name, None)
            else:
                state[name] = value

    def _values(self, state: State) -> dict[str, Any]:
        if self._literal is not None:
            return {self._register: self._literal}
        if self._copies:
            return self._copied(state)
        if self._data:
            return dict.fromkeys(self.results(), DATA)
        operands = [_read(state, source) for source in self._sources]
        unknown = DATA if DATA in operands else None
        operands = [None if x is DATA else x for x in operands]
        if self._pair:
            high = operands.pop(3)
            operands[2] = None if None in (operands[2], high) else operands[2] + high * WORD
        value = None
        if self._function and (None not in operands or self._function in OF_UNKNOWN):
            value = self._function(self._suffixes, *operands)
        if value is None:
            return dict.fromkeys(self.results(), unknown)
        if isinstance(value, tuple):
            return {name: unknown if x is None else x for name, x in zip(self._predicates, value, strict=False)}
        values = dict.fromkeys(self._predicates, value % WORD != 0)
        values[self._register] = value % WORD
        if self._wide:
            values[_next(self._register)] = value // WORD % WORD
        carry = value // WORD ** (2 if self._wide else 1)
        return values | {name: carry > i for i, name in enumerate(self._carries)}

    def _copied(self, state: State) -> dict[str, Any]:
        """One or two words of constant memory, or zeros."""
        name = self._sources[0][1]
        if self._offset is not None:
            index = state.get(name)
            if index is None or index is DATA:
                return dict.fromkeys(self.results(), index)
            name = word(index + self._offset)
        values = {self._register: state.get(name)}
        return values | {_next(self._register): state.get(_next(name))} if self._wide else values


def _registers_written(opcode: str) -> int:
    """By a load, a product or other arithmetic on data."""
    group = re.match(r"HGMMA\.64x(\d+)x\d+\.(F32)?", opcode)
    if group:  # 64 rows over the 128 threads of four warps
        return int(group[1]) // (2 if group[2] else 4)
    loaded = re.search(r"\.(64|128)\b", opcode) or re.match(r"LDSM\..*\.([124])$", opcode)
    if loaded:
        return {"64": 2, "128": 4}.get(loaded[1]) or int(loaded[1])
    if opcode.startswith("HMMA"):
        return 4 if ".F32" in opcode else 2
    return 2 if re.match(r"D(ADD|MUL|FMA)|[FI]2F\.F64", opcode) else 1


def _halves(operands: Sequence[str]) -> int | None:
    """The word of two constants in half precision, which is loaded by adding them to nothing."""
    if [x.lstrip("-") for x in operands[:2]] != ["RZ", "RZ"]:
        return None
    high, low = (int(struct.unpack("<H", struct.pack("<e", float(x)))[0]) for x in operands[2:4])
    return high * 65536 + low


class ControlFlow:
    """The control flow of a kernel.

    Args:
        listing: its instructions.
    """

    def __init__(self, listing: Sequence[Instruction]) -> None:
        self._listing = listing
        self._index = {x.address: i for i, x in enumerate(listing)}
        operations = [_Operation(x) for x in listing]
        deciding = self._deciding(operations)
        self._operations: list[Callable[[State], None] | None] = [
            x.run if x.results() & deciding else None for x in operations
        ]
        jumps = {i: self._target(x) for i, x in enumerate(listing) if _base(x.opcode) in ("BRA", "CALL")}
        self._loops = [(target, i) for i, target in jumps.items() if target <= i and _base(listing[i].opcode) == "BRA"]
        ends = {i + 1 for i, x in enumerate(listing) if _base(x.opcode) in _BRANCHES}
        starts = sorted({0, *jumps.values(), *ends} - {len(listing)})
        self._ends = dict(zip(starts, [*starts[1:], len(listing)], strict=True))

    def _target(self, instruction: Instruction) -> int:
        return self._index[int(instruction.operands[-1], 16)]

    @staticmethod
    def _conditions(instruction: Instruction) -> list[_Source]:
        """All of which must hold for a branch to be taken."""
        texts = [instruction.guard, *(x for x in instruction.operands if _PREDICATE.fullmatch(x.lstrip("!")))]
        return [_source(x) for x in texts if x]

    def _deciding(self, operations: Sequence[_Operation]) -> set[str]:
        """Names that branches depend on, however far back."""
        branches = [x for x in self._listing if _base(x.opcode) in _BRANCHES]
        names = {name for x in branches for _, name in self._conditions(x)}
        while more := set().union(*(x.needs() for x in operations if x.results() & names)) - names:
            names |= more
        return names

    def issued(self, known: Mapping[str, Any]) -> Counter[str]:
        """How often a warp issues each opcode; what is `known` at the start is not written to."""
        state: State = {**_FIXED, **known}
        blocks: Counter[int] = Counter()
        returns: list[int] = []
        at = 0
        for _ in range(_MOST_BLOCKS):
            blocks[at] += 1
            end = self._ends[at]
            for run in self._operations[at:end]:
                if run is not None:
                    run(state)
            at = self._after(end - 1, state, returns)
            if at < 0:
                break
        else:
            raise ValueError(f"listing: got more than {_MOST_BLOCKS} blocks of instructions, expected an end")
        found: Counter[str] = Counter()
        for start, times in blocks.items():
            for instruction in self._listing[start : self._ends[start]]:
                found[instruction.opcode] += times
        return found

    def _ends_loop(self, at: int) -> bool:
        """Whether a branch decides how often a loop runs: it goes back, or out of one."""
        target = self._target(self._listing[at])
        return target <= at or any(start <= at < end < target for start, end in self._loops)

    def _after(self, last: int, state: State, returns: list[int]) -> int:
        """The instruction that follows one; −1 at the end."""
        instruction = self._listing[last]
        base, *suffixes = instruction.opcode.split(".")
        if base not in _BRANCHES or "DIV" in suffixes:  # taken where the threads of a warp disagree
            return last + 1
        conditions = [_read(state, x) for x in self._conditions(instruction)]
        if False in conditions:
            return last + 1
        if None in conditions or (DATA in conditions and base == "BRA" and self._ends_loop(last)):
            what = "one that is not understood" if None in conditions else "data"
            raise ValueError(f"condition of the branch at {instruction.address:#x}: got {what}, expected a known one")
        if DATA in conditions and base != "BRA":
            return last + 1
        if base == "EXIT":
            return -1
        if base == "RET":
            return returns.pop()
        if base == "CALL":
            returns.append(last + 1)
        return self._target(instruction)
