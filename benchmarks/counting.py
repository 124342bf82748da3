"""How many operators a call runs, and how many kernels it launches."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode  # documented, and has no other name

# Views by what they do, though not by their schema.
_MORE_VIEWS = {"aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh"}


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
        if not function.is_view and function.name() not in _MORE_VIEWS:
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
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        result = work()
        torch.cuda.synchronize()
        del result
    events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    return sum(not event.is_user_annotation for event in events)  # such as the names that torch.compile gives
