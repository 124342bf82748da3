"""Custom operators of torch with little to do on the host.

`torch.library.custom_op` walks through nested arguments and results several times a call, in Python, where there are
lists of tensors. Here lists are one level deep, and autograd is given their tensors one after the other.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice, zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_LIBRARY = torch.library.Library("seqca", "FRAGMENT")


class CustomOperator:
    """The operator `seqca::<name>`, which changes none of its arguments and returns none of them.

    Args:
        name: of the operator.
        body: computes it from tensors, lists of tensors and plain values; its annotations are the schema.
    """

    def __init__(self, name: str, body: Callable[..., Any]) -> None:
        self._name = name
        schema = torch.library.infer_schema(body, mutates_args=())
        _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        _LIBRARY.impl(name, body, "CompositeExplicitAutograd")
        self._operator = getattr(torch.ops.seqca, name).default

    def __call__(self, *arguments: Any) -> Any:
        return self._operator(*arguments)

    def register_fake(self, fake: Callable[..., Any]) -> Callable[..., Any]:
        """As of `torch.library.custom_op`."""
        return torch.library.register_fake(f"seqca::{self._name}", fake, lib=_LIBRARY)

    def register_vmap(self, vmap: Callable[..., Any]) -> None:
        """As of `torch.library.custom_op`."""
        torch.library.register_vmap(f"seqca::{self._name}", vmap, lib=_LIBRARY)

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., None] | None = None) -> None:
        """As of `torch.library.custom_op`; `backward` gets and gives lists where the operator has lists."""
        operator, behind = self._operator, torch._C._after_autograd_keyset

        class Differentiated(Function):
            @staticmethod
            def forward(ctx: Any, call: _Call, *_: Tensor) -> tuple[Tensor, ...]:
                with torch._C._AutoDispatchBelowAutograd():
                    results = operator.redispatch(call.keys, *call.arguments)
                if setup_context is not None:
                    setup_context(ctx, call.arguments, results)
                call.single = isinstance(results, Tensor)
                results = (results,) if call.single else results
                ctx.taken, ctx.given = _counts(call.arguments), _counts(results)
                ctx.repeated = _repeated(_tensors(call.arguments))
                call.given = ctx.given
                return tuple(_tensors(results))

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
                flat = _flat(backward(ctx, *_nested(gradients, ctx.given)), ctx.taken)
                return (None, *_added(flat, ctx.repeated))

        def differentiated(keys: Any, *arguments: Any) -> Any:
            tensors = _tensors(arguments)
            if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
                call = _Call(keys & behind, arguments)
                results = _nested(Differentiated.apply(call, *tensors), call.given)
                return results[0] if call.single else tuple(results)
            with torch._C._AutoDispatchBelowAutograd():
                return operator.redispatch(keys & behind, *arguments)

        _LIBRARY.impl(self._name, differentiated, "Autograd", with_keyset=True)


def custom_operator(name: str) -> Callable[[Callable[..., Any]], CustomOperator]:
    """Makes a custom operator of a function, as `torch.library.custom_op` does."""
    return lambda body: CustomOperator(name, body)


class _Call:
    """What autograd's function is given beside the tensors, and what it tells of its results."""

    given: list[int | None]
    single: bool

    def __init__(self, keys: Any, arguments: Sequence[Any]) -> None:
        self.keys, self.arguments = keys, arguments


_SINGLE = -1


def _counts(values: Iterable[Any]) -> list[int | None]:
    """Of each value, how many tensors its list has, _SINGLE for a tensor, None for anything else."""
    return [_SINGLE if isinstance(x, Tensor) else len(x) if _is_list(x) else None for x in values]


def _is_list(x: Any) -> bool:
    """Whether it is a list of tensors; of an empty one nothing tells what it is of, nor does it matter."""
    return isinstance(x, (list, tuple)) and (not x or isinstance(x[0], Tensor))


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """All tensors, one after the other."""
    found: list[Tensor] = []
    for x in values:
        if isinstance(x, Tensor):
            found.append(x)
        elif _is_list(x):
            found.extend(x)
    return found


def _nested(tensors: Iterable[Any], counts: Sequence[int | None]) -> list[Any]:
    """The values that have tensors, from all their tensors."""
    remaining = iter(tensors)
    return [next(remaining) if n == _SINGLE else list(islice(remaining, n)) for n in counts if n is not None]


def _flat(gradients: Iterable[Any], counts: Sequence[int | None]) -> list[Tensor | None]:
    """The gradients of all tensors, where those of a whole list may be None."""
    flat: list[Tensor | None] = []
    for gradient, n in zip(gradients, counts, strict=True):
        if n == _SINGLE:
            flat.append(gradient)
        elif n is not None:
            flat.extend([None] * n if gradient is None else gradient)
    return flat


def _repeated(tensors: Sequence[Tensor]) -> list[list[tuple[int, int]]]:
    """Where a tensor stands first, and where again: for all tensors a second time, then for all a third time, …"""
    places: dict[int, list[int]] = {}
    for i, x in enumerate(tensors):
        places.setdefault(id(x), []).append(i)
    again = [[(first, i) for i in others] for first, *others in places.values() if others]
    return [[pair for pair in turn if pair is not None] for turn in zip_longest(*again)]


def _added(gradients: list[Tensor | None], repeated: list[list[tuple[int, int]]]) -> list[Tensor | None]:
    """Gradients of a tensor that is an argument several times together: autograd would add them one by one."""
    for turn in repeated:
        by_dtype: dict[torch.dtype, list[tuple[int, int, Tensor, Tensor]]] = {}
        for first, i in turn:
            one, other = gradients[first], gradients[i]
            if one is not None and other is not None:
                by_dtype.setdefault(one.dtype, []).append((first, i, one, other))
        for entries in by_dtype.values():
            firsts, others, ones, added = zip(*entries, strict=True)
            for first, i, x in zip(firsts, others, torch._foreach_add(ones, added), strict=True):
                gradients[first], gradients[i] = x, None
    return gradients
