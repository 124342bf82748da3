"""Functions that are run in two processes, which know of each other by gloo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_two_processes(path: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)` returns in each, by its rank.

    Args:
        path: an empty folder for what they exchange.
        function: of a module, as processes find it by its name.
    """
    mp.spawn(_run, (path, function, arguments), nprocs=2)
    return [torch.load(path / f"{rank}.pt") for rank in (0, 1)]


def _run(rank: int, path: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    torch.save(function(rank, *arguments), path / f"{rank}.pt")
    dist.destroy_process_group()
