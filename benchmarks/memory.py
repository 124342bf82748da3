"""Memory: what is kept for backward, and the peak."""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def kept_bytes(forward: Callable[[], Any], left_out: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for backward: the distinct storages of all saved tensors, whole.

    Saved tensors of custom operators count like those of torch's own. A view keeps all of its storage.

    Args:
        forward: computes outputs that can be differentiated, and returns them.
        left_out: tensors whose storages do not count: parameters and buffers.
    """
    storages: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        alive.append(tensor)
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = forward()
    del outputs
    for tensor in left_out:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def peak_bytes(work: Callable[[], Any], device: str) -> int:
    """The most memory that work has allocated at any time, above what was there before, from torch's allocator."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = work()
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
        del result
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    allocations = [event for event in events if event.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(allocations, key=lambda event: event["args"]["Ev Idx"])]
    return highest(changes)


def highest(changes: Sequence[int]) -> int:
    """The highest level that allocations (positive) and releases (negative) in order reach above the first."""
    level = peak = 0
    for change in changes:
        level += change
        peak = max(peak, level)
    return peak
