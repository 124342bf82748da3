"""What does not depend on a clock: bytes kept for backward, peaks, operators that run, kernels that are launched."""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode  # documented, and has no other name

from .case import Case, Inputs, Provider
from .execution import Execution

# Views by what they do, though not by their schema.
_MORE_VIEWS = {"aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh"}


def quantities(case: Case, provider: Provider, execution: Execution, inputs: Inputs) -> dict[str, Any]:
    """What does not depend on the clock: memory, and operators or kernels."""
    entry: dict[str, Any] = {}
    if case.direction == "both" and not provider.captured:
        entry["kept_bytes"] = kept_bytes(lambda: execution.forward(inputs), case.left_out(inputs))
    call = execution.call(inputs)
    if case.direction != "backward":
        # The memory of a graph is allocated when it is captured.
        entry |= peaks(lambda: execution.call(inputs) if provider.captured else call.run(None), case.device)
    state = call.prepare()
    if case.device == "cuda":
        entry["kernels"] = launched_kernels(lambda: call.run(state))
    elif provider.mode == "eager":
        entry["operators"] = operators_run(lambda: call.run(state))
    return entry


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


def peaks(work: Callable[[], Any], device: str) -> dict[str, int]:
    """The most memory at any time above what was there before: `peak_bytes` that tensors of work had and, on a GPU,
    `reserved_bytes` that torch's allocator took for them, with what lies idle between them."""
    if device == "cpu":
        return {"peak_bytes": peak_bytes(work)}
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # what it has kept of earlier work
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    result = work()
    torch.cuda.synchronize()
    del result
    return {
        "peak_bytes": torch.cuda.max_memory_allocated() - allocated,
        "reserved_bytes": torch.cuda.max_memory_reserved() - reserved,
    }


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most memory that work on a CPU has allocated at any time, above what was there before."""
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


def is_view(function: Any) -> bool:
    """Whether a torch operator moves and computes nothing."""
    return function.is_view or function.name() in _MORE_VIEWS


class OperatorCounter(TorchDispatchMode):
    """Counts torch operators, inside custom operators too; views are left out.

    A custom operator counts as the operators of its body, which is run under the counter again, below autograd.
    Kernels that torch cannot see into, such as Triton's, do not count: on a GPU `launched_kernels` sees them.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.count = 0
        self._keys = torch.DispatchKeySet(torch.DispatchKey.CUDA if device == "cuda" else torch.DispatchKey.CPU)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.namespace not in ("aten", "prims"):
            with self:
                return function.redispatch(self._keys, *args, **kwargs)
        with self:  # below autograd, composite operators arrive whole; their parts are what counts
            result = function.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        if not is_view(function):
            self.count += 1
        return function(*args, **kwargs)


def operators_run(work: Callable[[], Any], device: str = "cpu") -> int:
    """Operators that work runs, forward and backward, views left out."""
    with OperatorCounter(device) as counter:
        result = work()
        del result
    return counter.count


def launched_kernels(work: Callable[[], Any]) -> int:
    """Kernels, copies and fills that work launches on the GPU, as the profiler sees them."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:  # the host's thousands of events take it minutes
        result = work()
        torch.cuda.synchronize()
        del result
    events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    return sum(not event.is_user_annotation for event in events)  # such as the names that torch.compile gives
