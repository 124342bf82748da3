"""Which backend each operator would use, and why not the others."""

from typing import NamedTuple

import torch

from .configuration import IMAGE, NETWORK
from .ops.shared.device import checked_device
from .ops.shared.dispatch import BACKENDS, BackendUnavailable, forced_backend, refusal, resolve
from .ops.shared.operator import OPERATORS, Call, Operator


class Choice(NamedTuple):
    """The outcome of the choice for one call of an operator."""

    operator: str
    call: Call
    backend: str | None
    """None if the forced backend cannot run, so that the call would raise."""
    others: dict[str, str]
    """The reason against every other backend."""


class Explanation(tuple[Choice, ...]):
    """Choices, printed as text; calls of an operator that end alike are told together."""

    def __repr__(self) -> str:
        ends: dict[tuple[str, str | None, tuple[tuple[str, str], ...]], list[Call]] = {}
        for choice in self:
            ends.setdefault((choice.operator, choice.backend, tuple(choice.others.items())), []).append(choice.call)
        lines = []
        for (operator, backend, others), calls in ends.items():
            lines.append(f"{operator}: {backend or 'raises'}")
            tokens: dict[str, list[int]] = {}
            for call in calls:
                tokens.setdefault(call.kind, []).append(call.tokens)
            for kind, numbers in tokens.items():
                lines.append(f"    for {kind}, tokens: {', '.join(map(str, sorted(set(numbers), reverse=True)))}")
            lines += [f"    not {name}: {reason}" for name, reason in others]
        return "\n".join(lines)


def explain(
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    operator: str | None = None,
    shape: tuple[int, int] | None = None,
) -> Explanation:
    """Which backend each operator would use here, and why not the others.

    Args:
        device: device type, of this machine; by default "cuda" where there is a GPU, else "cpu".
        dtype: of the token tensors, after autocast; for losses of the prediction.
        operator: the only one to explain; by default all.
        shape: (channels, tokens) of a call, tokens over leading indices and entries of lists, for losses (classes,
            pixels of the label), for softplus (1, elements); by default those of the network on one image of 480×640
            with four tasks, for an operator that the network does without one map of each scale.

    Returns:
        One `Choice` per operator and shape; its text is made for reading: `print(seqca.explain())`.

    Raises:
        TypeError: a dtype that is no floating torch.dtype.
        ValueError: a device that torch cannot use here, an operator that does not exist, a shape that is no two
            positive integers.
    """
    device = checked_device(device)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype: got {dtype!r}, expected a floating torch.dtype")
    if operator is not None and operator not in OPERATORS:
        raise ValueError(f"operator: got {operator!r}, expected one of {', '.join(OPERATORS)}")
    two = isinstance(shape, (tuple, list)) and len(shape) == 2
    if shape is not None and not (two and all(isinstance(n, int) and n > 0 for n in shape)):
        raise ValueError(f"shape: got {shape!r}, expected two positive integers: channels, tokens")
    chosen = OPERATORS if operator is None else [operator]
    if shape is not None:
        return Explanation(_choice(OPERATORS[name], Call(device, dtype, *shape)) for name in chosen)

    from .network_calls import network_calls  # not before it is asked for: it brings the network and timm

    maps = [Call(device, dtype, *of_scale) for of_scale in zip(NETWORK.channels, NETWORK.tokens(*IMAGE), strict=True)]
    calls = network_calls()
    return Explanation(
        _choice(OPERATORS[name], call._replace(device=device, dtype=dtype))
        for name in chosen
        for call in calls[name] or maps
    )


def _choice(operator: Operator, call: Call) -> Choice:
    try:
        backend = resolve(operator, call)
    except BackendUnavailable:
        backend = None
    others = {name: refusal(operator, name, call) or _passed_over(backend) for name in BACKENDS if name != backend}
    return Choice(operator.name, call, backend, others)


def _passed_over(backend: str | None) -> str:
    if forced_backend() == "auto":
        return f"can run, {backend} comes first"
    return f"can run, {forced_backend()} is forced"
