"""Which backend each operator would use, and why not the others."""

from typing import NamedTuple

import torch

from .dispatch import BACKENDS, BackendUnavailable, forced_backend, refusal, resolve
from .operator import OPERATORS, Call


class Choice(NamedTuple):
    """The outcome of the choice for one operator."""

    operator: str
    call: Call
    backend: str | None
    """None if the forced backend cannot run, so that the call would raise."""
    others: dict[str, str]
    """The reason against every other backend."""


class Explanation(tuple[Choice, ...]):
    """Choices, printed as text."""

    def __repr__(self) -> str:
        lines = []
        for choice in self:
            lines.append(f"{choice.operator} ({choice.call}): {choice.backend or 'raises'}")
            lines += [f"    not {backend}: {reason}" for backend, reason in choice.others.items()]
        return "\n".join(lines)


def explain(
    device: str | None = None, dtype: torch.dtype = torch.float32, channels: int = 36, tokens: int = 19200
) -> Explanation:
    """Which backend each operator would use here, and why not the others.

    Args:
        device: device type; by default "cuda" where there is a GPU, else "cpu".
        dtype: of the token tensors.
        channels: of a token.
        tokens: in one call, over leading indices and entries of lists.

    Returns:
        One `Choice` per operator; its text is made for reading: `print(seqca.explain())`.
    """
    call = Call(device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype, channels, tokens)
    choices = []
    for operator in OPERATORS.values():
        try:
            backend = resolve(operator, call)
        except BackendUnavailable:
            backend = None
        others = {name: refusal(operator, name, call) or _passed_over(backend) for name in BACKENDS if name != backend}
        choices.append(Choice(operator.name, call, backend, others))
    return Explanation(choices)


def _passed_over(backend: str | None) -> str:
    if forced_backend() == "auto":
        return f"can run, {backend} comes first"
    return f"can run, {forced_backend()} is forced"
