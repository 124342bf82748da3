"""A call of an operator under a process group: its images shared out to two processes, and their results together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from seqca.ops import use_backend
from seqca.ops.shared.sample import Sample
from seqca.ops.verification.judge import evaluate


def of_process(
    rank: int, function: Callable[..., Any], sample: Sample, gradients: Sequence[Tensor], backend: str
) -> dict[str, Tensor]:
    """All images but the last on the first process, that one on the second, each with its share of the gradient.

    Of several batches those of each.
    """
    batches = sample.arguments.get("batches", 1)
    images = slice(None, -1) if rank == 0 else slice(-1, None)
    own = {id(x): x.detach()[images].requires_grad_() for x in sample.arguments["maps"]}
    shared = {"maps": [own[id(x)] for x in sample.arguments["maps"]], "group": dist.group.WORLD}
    with use_backend(backend):
        part = sample._replace(arguments=sample.arguments | shared)
        return evaluate(function, part, [_of(g, images, batches) if g.ndim == 4 else g for g in gradients])


def _of(x: Tensor, images: slice, batches: int) -> Tensor:
    """Some of the images of each batch."""
    return x.unflatten(0, (batches, -1))[:, images].flatten(0, 1)


def together(parts: Sequence[dict[str, Tensor]], batches: int = 1) -> dict[str, Tensor]:
    """Images side by side, statistics, which are the same in both, and shares of parameters' gradients added."""
    found = {}
    for what, first in parts[0].items():
        shares = [part[what] for part in parts]
        if what.startswith("gradient of maps"):
            found[what] = torch.cat(shares)
        elif what.startswith("output") and first.ndim == 4:
            found[what] = torch.cat([x.unflatten(0, (batches, -1)) for x in shares], 1).flatten(0, 1)
        elif what.startswith("output"):
            assert torch.equal(*shares), what
            found[what] = first
        else:
            found[what] = shares[0] + shares[1]
    return found
