"""Work that depends on the kinds of tensors alone, such as checks, is done once for all calls alike."""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

_KEPT = 1024
"""Results of one function at most that are kept."""


def remembered(work: Callable[P, T]) -> Callable[P, T]:
    """`work`, done once for all arguments alike; where it raises, each time anew.

    Of tensors it may look at shape, dtype, device and layout alone, and its result is not None. The compiler goes
    through it every time, as sizes may be symbols there.
    """
    known: dict[Hashable, T] = {}

    @wraps(work)
    def find(*arguments: P.args, **named: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return work(*arguments, **named)
        try:
            key = kind((arguments, tuple(named.items())))
            result = known.get(key)
        except TypeError:  # a size that is a symbol, or what `work` will refuse, has no hash
            key = result = None
        if result is None:
            result = work(*arguments, **named)
            if len(known) == _KEPT:
                known.clear()
            if key is not None:
                known[key] = result
        return result

    return find


def kind(x: Any) -> Hashable:
    """What is the same in arguments for which the same work is done."""
    if isinstance(x, Tensor):
        return x.shape, x.dtype, x.device, x.layout
    if isinstance(x, (list, tuple)):
        return tuple([kind(y) for y in x])
    return type(x), x
