"""What an operator is: one description that dispatch, tests, `explain` and `selftest` all read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import debug_unwrap

from .autocast import autocasts
from .custom import CustomOperator
from .sample import Sampler


class Call(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    """Device type of the tensors, such as "cpu"."""
    dtype: torch.dtype
    """Of the token tensors, after autocast."""
    channels: int
    """The largest number of channels of a token that a kernel must hold at once."""
    tokens: int
    """All tokens for which the call computes something, over leading indices and entries of lists."""

    @property
    def kind(self) -> str:
        """All but the tokens, in words."""
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}, {self.channels} channels"

    def __str__(self) -> str:
        return f"{self.kind}, {self.tokens} tokens"


Limit = Callable[[Call], str | None]
"""Why an implementation cannot run a call that its backend in general could, or None."""

PACKAGES = {"aten": "seqca.ops.aten", "triton": "seqca.kernels", "cuda": "seqca.ops.cuda"}
"""Where the fused implementations are, by backend: in the module with the operator's name, imported when first needed,
as `forward` and `backward`, whose arguments and results `seqca/ops/<name>.py` tells at its top."""


@dataclass(frozen=True)
class Operator:
    """A fused operator: its name, the same in every folder, and who implements it."""

    name: str
    """The name of the modules, of the public function and of the custom operators `seqca::<name>[_backward]`."""
    function: Callable[..., Any]
    """The public function."""
    reference: Callable[..., Any]
    """The same call in plain torch, differentiable by autograd: the backend `reference`."""
    samples: Mapping[str, Sampler]
    """Generators of inputs, by what they show."""
    describe: Callable[..., Call]
    """What the choice of a backend looks at, given the arguments of the public function after autocast."""
    backends: tuple[str, ...] = ("aten", "triton")
    """The fused implementations that exist."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """What an implementation refuses, by backend; those without an entry refuse nothing."""
    casts: bool = True
    """Whether the public function casts under autocast. Losses and softplus, which torch keeps out of half precision,
    do not."""
    channel_axis: int = -1
    """Where outputs and gradients have their channels, for the mean error per channel."""

    def implementation(self, backend: str) -> ModuleType:
        """The module with `forward` and `backward` of a backend."""
        return import_module(f"{PACKAGES[backend]}.{self.name}")


OPERATORS: dict[str, Operator] = {}
"""Every operator by name."""


def register(operator: Operator) -> Operator:
    """Adds an operator to those that tests, `explain` and `selftest` go through."""
    if operator.name in OPERATORS:
        raise ValueError(f"operator: got {operator.name!r}, which is registered already, expected a new name")
    if not operator.samples:
        raise ValueError(f"operator: got {operator.name!r} without samples, expected some to check it with")
    OPERATORS[operator.name] = operator
    return operator


def kernel_scope(tensor: Tensor) -> AbstractContextManager[None]:
    """Where the body of a custom operator runs: on the device of `tensor`, autocast off.

    The public function has already cast the inputs; sums kept in float32 must not be cast again by products inside.
    """
    if not tensor.is_cuda and not autocasts(tensor.device.type):
        return nullcontext()  # entering and leaving it takes longer than asking
    return _kernel_scope(tensor)


@contextmanager
def _kernel_scope(tensor: Tensor) -> Iterator[None]:
    with torch.autocast(tensor.device.type, enabled=False), torch.cuda.device_of(tensor):
        yield


def refuse_forward_mode(name: str, *tensors: Tensor) -> None:
    """Makes a forward-mode derivative an error; of a custom operator torch would silently make it zero.

    Raises:
        NotImplementedError: if a tensor carries a tangent.
    """
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:  # which each tensor would be asked for again
        return
    if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(
            f"{name}: forward-mode derivatives are not implemented by the fused backends; "
            "seqca.use_backend('reference') computes them"
        )


def call_fused(name: str, custom: CustomOperator, *arguments: Any) -> Any:
    """Calls a custom operator of the operator `name`, forward or backward.

    The transforms of `torch.func` cannot look into it, nor can autograd give it a batch of gradients, and what torch
    says then names neither the operator nor a way out. (Asked only after the failure: asking costs a microsecond a
    tensor.)

    Raises:
        NotImplementedError: if the call failed under a transform or for a batch of gradients.
    """
    try:
        return custom(*arguments)
    except RuntimeError as error:
        tensors = (x for argument in arguments for x in (argument if isinstance(argument, list) else [argument]))
        transformed = any(isinstance(x, Tensor) and debug_unwrap(x, recurse=False) is not x for x in tensors)
        # Autograd batches gradients in a way of its own, which no public function sees.
        if transformed or str(error).startswith("Batching rule not implemented"):
            raise _not_transformed(name) from error
        raise


def refuse_vmap(forward: CustomOperator, name: str) -> None:
    """Makes `torch.func.vmap` of the operator `name` an error, where torch's own loop over slices would be wrong."""

    def refuse(*_: Any) -> NoReturn:
        raise _not_transformed(name)

    forward.register_vmap(refuse)


def _not_transformed(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name}: this transform of torch.func, or batch of gradients, is not implemented by the fused backends; "
        "seqca.use_backend('reference') computes it"
    )


def refuse_second_derivative(backward: CustomOperator, name: str) -> None:
    """Makes differentiating through the backward operator of `name` an error instead of a dropped term."""

    def refuse(ctx: Any, *gradients: Any) -> NoReturn:
        raise NotImplementedError(
            f"{name}: the second derivative is not implemented by the fused backends; "
            "seqca.use_backend('reference') computes it"
        )

    backward.register_autograd(refuse)
