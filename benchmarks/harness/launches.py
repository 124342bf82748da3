"""What a GPU would be asked to launch, counted without one, on tensors without values: nothing is computed.

One launch is a torch operator that works on values, inside custom operators too, or a launch of a Triton kernel. Views
and allocations work on none. (Of torch's operators some launch several kernels, such as a batch norm, and some differ
between GPUs; so what is counted are operators.)
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from seqca.kernels.launch import Launch, record
from torch.utils._python_dispatch import TorchDispatchMode  # documented, and has no other name
from torch.utils.flop_counter import flop_registry

from seqca.ops.shared import dispatch
from seqca.ops.shared.operator import OPERATORS

from .parts import Parts
from .quantities import is_view

_ALLOCATIONS = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}


class Launched(NamedTuple):
    """What is launched, and where."""

    part: str
    """Of what is counted, see `Parts`."""
    direction: str
    """forward or backward."""
    name: str
    """Of the torch operator or Triton kernel."""
    triton: bool


class LaunchCounter(TorchDispatchMode):
    """Counts launches by part. Bodies of the package's operators run on the tensors without values that they get."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = Parts()
        self.start()

    def start(self) -> None:
        """Forgets what was before."""
        self.counts: Counter[Launched] = Counter()
        self.parts.start()
        self.kernels: list[Launch] = []
        """The launches of Triton kernels, in order."""
        self.operations: Counter[tuple[str, str]] = Counter()
        """Multiplications and additions of torch's products and convolutions, by part and direction."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        if function.namespace == "seqca":
            return self._body(name, *args)
        with self:  # below autograd, composite operators arrive whole; their parts are what counts
            result = function.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        if not is_view(function) and name not in _ALLOCATIONS:
            self._count(name, triton=False)
        if name == "masked_select":  # whose result is as long as the values say: here as if all were selected
            return args[0].new_empty(args[0].numel())
        result = function(*args, **kwargs)
        if (operations := flop_registry.get(function.overloadpacket)) is not None:
            self.operations[self.parts.current, self.parts.direction] += operations(*args, **kwargs, out_val=result)
        return result

    def _body(self, name: str, *arguments: Any) -> Any:
        """What a custom operator does on the backend that is its last argument."""
        operator = OPERATORS[name.removesuffix("_backward")]
        implementation = operator.implementation(arguments[-1])
        body = implementation.forward if name == operator.name else implementation.backward
        with record() as launches, self:
            result = body(*arguments[:-1])
        self.kernels += launches
        for launch in launches:
            self._count(launch.kernel.fn.__name__, triton=True)
        return result

    def _count(self, name: str, triton: bool) -> None:
        self.counts[Launched(self.parts.current, self.parts.direction, name, triton)] += 1


@contextmanager
def choices_of_a_gpu() -> Iterator[None]:
    """Operators choose their backends as if the tensors were on a GPU that Triton supports."""

    def as_there(choose: Any) -> Any:
        return lambda *arguments: choose(*arguments[:-1], arguments[-1]._replace(device="cuda"))

    with (
        dispatch.use_backend("auto"),
        patch.object(dispatch, "preference", as_there(dispatch.preference)),
        patch.object(dispatch, "refusal", as_there(dispatch.refusal)),
    ):
        yield
