"""Arguments gone wrong: everything that one argument of a call can be turned into."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

Mutation = tuple[str, Callable[[Tensor], Any]]

OF_TENSORS: tuple[Mutation, ...] = (
    ("None", lambda x: None),
    ("a string", lambda x: "map"),
    ("a number", lambda x: 3.5),
    ("an array", lambda x: x.numpy()),
    ("nested lists", lambda x: x.tolist()),
    ("a dict", lambda x: {"x": x}),
    ("an empty list", lambda x: []),
    ("int64", lambda x: x.long()),
    ("bool", lambda x: x > 0.5),
    ("complex", lambda x: x.to(torch.complex64)),
    ("float8", lambda x: x.to(torch.float8_e4m3fn)),
    ("half", lambda x: x.half()),
    ("single", lambda x: x.float()),
    ("sparse", lambda x: x.to_sparse()),
    ("on meta", lambda x: x.to("meta")),
    ("a rank less", lambda x: x[0]),
    ("a rank more", lambda x: x[None]),
    ("a vector", lambda x: x.flatten()),
    ("a scalar", lambda x: x.flatten()[0]),
    ("no element", lambda x: x[:0]),
    ("no column", lambda x: x[..., :0]),
    ("one fewer in front", lambda x: x[1:] if len(x) > 1 else x[:0]),
    ("one more in front", lambda x: torch.cat([x, x[:1]])),
    ("one fewer at the end", lambda x: x[..., 1:]),
    ("twice at the end", lambda x: torch.cat([x, x], -1)),
    ("dimensions swapped", lambda x: x.mT if x.ndim > 1 else x),
    ("dimensions reversed", lambda x: x.permute(*reversed(range(x.ndim)))),
    ("laid out the other way", lambda x: x.mT.contiguous().mT if x.ndim > 1 else x),
    ("expanded", lambda x: x[..., :1].expand(x.shape) if x.ndim else x),
    ("every other of twice as many", lambda x: torch.stack([x, x], -1)[..., 0]),
    ("a parameter", lambda x: nn.Parameter(x) if x.is_floating_point() else x),
    ("negative", lambda x: -x),
    ("huge", lambda x: x * 1e6),
    ("NaN", lambda x: torch.full_like(x, math.nan) if x.is_floating_point() else x.clone().fill_(-7)),
    ("one NaN", lambda x: _one(x, math.nan)),
    ("one infinity", lambda x: _one(x, math.inf)),
)

OF_NUMBERS: tuple[Any, ...] = (None, "3", [3], True, 0, -1, 2.5, 17, math.nan, math.inf, torch.tensor(1.5), 1j)


def _one(x: Tensor, value: float) -> Tensor:
    if not x.is_floating_point():
        value = -7
    wrong = x.clone()
    wrong.view(-1)[-1] = value
    return wrong


def mutated(value: Any) -> Iterator[tuple[str, Any]]:
    """What an argument can be turned into, with words for it; of containers, the whole and the last entry."""
    if isinstance(value, Tensor):
        for words, function in OF_TENSORS:
            yield words, function(value)
    elif isinstance(value, dict):
        last = list(value)[-1]
        yield "None", None
        yield "a list", list(value.values())
        yield "an entry too few", {key: x for key, x in value.items() if key != last}
        yield "an entry too many", value | {"another": value[last]}
        for words, entry in mutated(value[last]):
            yield f"[{last}] {words}", value | {last: entry}
    elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, str)):
        yield "None", None
        yield "its first entry", value[0]
        yield "an entry too few", value[:-1]
        yield "an entry too many", [*value, value[-1]]
        for words, entry in mutated(value[-1]):
            yield f"[-1] {words}", [*value[:-1], entry]
    elif isinstance(value, (list, tuple)):
        yield "None", None
        yield "nothing", value[:0]
        yield "twice", [*value, *value]
        for other in OF_NUMBERS:
            yield f"[-1] {other}", [*value[:-1], other]
    else:
        for other in OF_NUMBERS:
            yield str(other), other


def mutated_calls(arguments: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The call with one argument left out, turned into something else or exchanged with the next, or one too many."""
    names = list(arguments)
    for name, value in arguments.items():
        yield f"without {name}", {key: x for key, x in arguments.items() if key != name}
        for words, other in mutated(value):
            yield f"{name} {words}", arguments | {name: other}
    for one, other in pairwise(names):
        yield f"{one} and {other} exchanged", arguments | {one: arguments[other], other: arguments[one]}
    yield "one too many", arguments | {"unheard_of": 1}
