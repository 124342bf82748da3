"""The order in which backends are tried when none is forced: shipped, never tuned at run time.

On a CPU `aten` comes first, for what it does not keep, though single calls on few tokens can take longer than on the
reference (docs/benchmarks.md).

For each operator the first entry that covers a call counts, then `DEFAULT`. An entry belongs here only with a
measurement behind it, which its comment names.
"""

from typing import NamedTuple

import torch

from .operator import Call


class Preference(NamedTuple):
    """An order of backends, and the calls it covers."""

    device: str
    backends: tuple[str, ...]
    max_channels: int | None = None
    max_tokens: int | None = None
    dtypes: tuple[torch.dtype, ...] | None = None

    def covers(self, call: Call) -> bool:
        """Whether it speaks about a call."""
        return (
            call.device == self.device
            and (self.max_channels is None or call.channels <= self.max_channels)
            and (self.max_tokens is None or call.tokens <= self.max_tokens)
            and (self.dtypes is None or call.dtype in self.dtypes)
        )


DEFAULT = (Preference("cuda", ("triton", "cuda", "aten", "reference")),)
"""Triton where there is a GPU. Everywhere else `FALLBACK`."""

FALLBACK = ("aten", "reference", "triton", "cuda")

MEASURED: dict[str, tuple[Preference, ...]] = {
    # Twelve pairs of 19,200 tokens, forward and backward, on an H200: 0.904 ms as a graph, on Triton 0.953 ms; called
    # eagerly 2.29 and 4.25 ms (benchmarks/results/h200-extension.json).
    "linear_attention": (
        Preference("cuda", ("cuda", "triton", "aten", "reference"), max_channels=36, dtypes=(torch.bfloat16,)),
    ),
    # Products of weights, in float64, are most of the work where tokens are few, and there is little to keep: between
    # four tasks of 300 tokens it takes longer than the published sequence (benchmarks/results/cpu-operators.json).
    "cross_attention": (Preference("cpu", ("reference", "aten", "triton", "cuda"), max_tokens=1000),),
}
"""By operator, in front of `DEFAULT`."""


def preference(operator: str, call: Call) -> tuple[str, ...]:
    """Backends in the order to try them."""
    for entry in (*MEASURED.get(operator, ()), *DEFAULT):
        if entry.covers(call):
            return entry.backends
    return FALLBACK
