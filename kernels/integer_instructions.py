"""What the integer instructions of sm_90 compute, as far as branches depend on them; the mathematics alone.

Each function takes the suffixes of the opcode, then its operands: words below 2³², carries and predicates. It returns a
word that may exceed 32 bits by what is carried, or None where that is not known. Negated words are 2³² − x and may be
2³², so that differences carry as they do on the GPU.
"""

import struct
from collections.abc import Callable
from typing import Any

WORD = 2**32


def signed(x: int, bits: int = 32) -> int:
    """The number that a word means."""
    x %= 2**bits
    return x - 2**bits if x >> (bits - 1) else x


def _number(x: int, suffixes: frozenset[str]) -> int:
    return x % WORD if "U32" in suffixes else signed(x)


def multiply_add(suffixes: frozenset[str], a: Any, b: Any, c: Any, *carry: Any) -> int | None:
    """a·b + c; of WIDE 64 bits, of HI the upper half. A product by zero is known whatever the other factor."""
    if c is None or None in carry or (0 not in (a, b) and None in (a, b)):
        return None
    product = 0 if 0 in (a, b) else _number(a, suffixes) * _number(b, suffixes)
    total = product + c + sum(carry)
    if "WIDE" in suffixes:
        return total % WORD**2
    return (total // WORD if "HI" in suffixes else total) % WORD


def add(suffixes: frozenset[str], *terms: int) -> int:
    """The sum of words and carries."""
    return sum(terms)


def shift_add(suffixes: frozenset[str], a: int, b: int, *rest: int) -> int:
    """(a << shift) + b, or the upper half of the wide a << shift, plus b."""
    wide = a % WORD
    if "SX32" in suffixes:
        wide = signed(a)
    elif "HI" in suffixes:
        wide += rest[0] * WORD
        rest = rest[1:]
    shift, *carry = rest
    shifted = wide << shift
    return (shifted // WORD if "HI" in suffixes else shifted) % WORD + b + sum(carry)


def shift(suffixes: frozenset[str], low: int, by: int, high: int) -> int:
    """Half of the shifted pair (high, low)."""
    pair = high % WORD * WORD + low % WORD
    if "L" in suffixes:
        pair <<= min(by, 64)
    else:
        pair = (signed(pair, 64) if suffixes & {"S32", "S64"} else pair) >> min(by, 63)
    return (pair // WORD if "HI" in suffixes else pair) % WORD


def bitwise(suffixes: frozenset[str], a: int, b: int, c: int, table: int, *_: Any) -> int:
    """The bits that the table gives for those of a, b and c."""
    result = 0
    for i in range(8):
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result % WORD


def smallest_or_largest(suffixes: frozenset[str], *operands: Any) -> int:
    """Of two words, of which the first may be a sum."""
    *terms, other, smallest = operands
    pair = _number(sum(terms), suffixes), _number(other, suffixes)
    return (min if smallest else max)(pair) % WORD


def select(suffixes: frozenset[str], a: Any, b: Any, which: Any) -> int | None:
    """One of two words."""
    return a if which or a == b else b if which is not None else None


def absolute(suffixes: frozenset[str], a: int) -> int:
    """|a|."""
    return abs(signed(a))


def move(suffixes: frozenset[str], a: int, *_: Any) -> int:
    """The word itself; of a shuffle by a constant that of the first lane."""
    return a


def bytes_of(suffixes: frozenset[str], a: int, selector: int, b: int) -> int:
    """Four of the bytes of the pair (b, a)."""
    source = (a % WORD).to_bytes(4, "little") + (b % WORD).to_bytes(4, "little")
    return int.from_bytes(bytes(source[selector >> 4 * i & 7] for i in range(4)), "little")


def extended(suffixes: frozenset[str], a: int, bits: int) -> int:
    """The lowest bits of a word, as a number with a sign or, of U32, without one."""
    low = a % 2**bits
    return low if "U32" in suffixes else signed(low, bits) % WORD


def ones(suffixes: frozenset[str], a: int) -> int:
    """How many bits of a word are 1."""
    return (a % WORD).bit_count()


def packed(suffixes: frozenset[str], predicates: int, rest: int, mask: int) -> int:
    """Predicates as bits of a word, where the mask has them."""
    return predicates & mask | rest & ~mask


def _bits(x: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", x))[0])


def _float(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits % WORD))[0])


def to_float(suffixes: frozenset[str], a: int) -> int:
    """Bits of the float that is not below a; division begins so."""
    number = _number(a, suffixes)
    bits = _bits(float(number))
    return bits + 1 if "RP" in suffixes and 0 <= _float(bits) < number else bits


def reciprocal(suffixes: frozenset[str], a: int) -> int | None:
    """Bits of 1/a of a float."""
    return _bits(1 / _float(a)) if "RCP" in suffixes and _float(a) else None


def to_integer(suffixes: frozenset[str], a: int) -> int:
    """A float without its fraction."""
    return int(_float(a)) % WORD


_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
}


def compare(suffixes: frozenset[str], a: int, b: int, other: bool, *lower: bool) -> tuple[bool, bool]:
    """The comparison and its opposite, each with another predicate; EX continues that of the lower words."""
    name = next(name for name in _COMPARISONS if name in suffixes)
    left, right = _number(a, suffixes), _number(b, suffixes)
    result = _COMPARISONS[name](left, right)
    if "EX" in suffixes and left == right:
        result = lower[0]
    elif "EX" in suffixes:
        result = _COMPARISONS[name.replace("E", "T") if name[0] in "LG" else name](left, right)
    if "OR" in suffixes:
        return result or other, not result or other
    if "XOR" in suffixes:
        return result != other, (not result) != other
    return result and other, not result and other


def logic(suffixes: frozenset[str], a: Any, b: Any, c: Any, *tables: int) -> tuple[Any, Any]:
    """What two tables give for three predicates, where it does not depend on an unknown one."""
    known = [(x,) if x is not None else (False, True) for x in (a, b, c)]
    found = []
    for table in tables:
        values = {bool(table >> (4 * x + 2 * y + z) & 1) for x in known[0] for y in known[1] for z in known[2]}
        found.append(values.pop() if len(values) == 1 else None)
    return found[0], found[1]


SEMANTICS: dict[str, Callable[..., Any]] = {
    "IADD3": add,
    "VIADD": add,
    "IMAD": multiply_add,
    "LEA": shift_add,
    "SHF": shift,
    "LOP3": bitwise,
    "IABS": absolute,
    "VIMNMX": smallest_or_largest,
    "IMNMX": smallest_or_largest,
    "VIADDMNMX": smallest_or_largest,
    "SEL": select,
    "MOV": move,
    "R2UR": move,
    "S2R": move,
    "S2UR": move,
    "SHFL": move,
    "PRMT": bytes_of,
    "SGXT": extended,
    "POPC": ones,
    "P2R": packed,
    "UP2UR": packed,
    "I2F": to_float,
    "MUFU": reciprocal,
    "F2I": to_integer,
    "ISETP": compare,
    "PLOP3": logic,
}
"""By the opcode without suffixes, and without the U of those that a warp executes as one."""

OF_UNKNOWN = {multiply_add, select, logic}
"""Those that may know their result where they do not know all operands."""
