"""One training step of a model, on copies: outputs, losses, gradients and running statistics."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from seqca.ops.verification.draws import Results

from .finding import Part
from .replaced import replace_class
from .trees import mapped, named_tensors

Step = Callable[..., tuple[Any, Any]]
"""(model, criterion, *sample) → (output, losses)."""

_RANDOM = ("drop", "stochastic")
"""In the names of classes that do something else at every call: dropout, drop path, stochastic depth."""


class StepError(Exception):
    """What a training step raised, in one line."""


def default_step(model: nn.Module, criterion: Any, images: Any, *others: Any) -> tuple[Any, Any]:
    """A training step as most code bases make it: the criterion takes the output, and what else the sample holds."""
    output = model(images)
    return output, None if criterion is None else criterion(output, *others)


class Subject(NamedTuple):
    """What is tried."""

    root: nn.ModuleDict
    """Holds the model and, if it is a module, the criterion."""
    criterion: Any
    """None, or a criterion that is no module."""
    step: Step
    sample: Sequence[Any]
    """Arguments of the step: images, then labels and whatever else."""


class Trial:
    """Training steps of copies of a model, as a function of images, parameters and buffers.

    The copies train, as the model does if it is in training mode, but their dropout is off.

    Args:
        subject: what is tried.
        parts: that are replaced in the copies.
    """

    def __init__(self, subject: Subject, parts: Iterable[Part] = ()) -> None:
        self._subject = subject
        self._root = root = copy.deepcopy(subject.root)
        root.zero_grad()
        if not root["model"].training:
            root.train()
        for module in root.modules():
            name = type(module).__name__.lower()
            if any(word in name for word in _RANDOM) and not any(module.children()):
                module.eval()
        for part in parts:
            replace_class(root.get_submodule(part.path), part.fused)
        self._wide = all(x.dtype == torch.float64 for x in _state(root))

    def inputs(self) -> list[Tensor]:
        """Images, parameters and floating buffers."""
        images = named_tensors("images", self._subject.sample[0])
        return [x.detach() for x in (*images.values(), *_state(self._root))]

    def __call__(self, inputs: Sequence[Tensor]) -> Results:
        """Everything that comes out, by name; see `inputs`. float64 ones make the whole step float64.

        Raises:
            StepError: the code of the step raised something.
            TypeError, ValueError: what it returned cannot be differentiated, or it drew random numbers.
        """
        root, sample = self.prepared(inputs)
        with torch.enable_grad(), _without_randomness(inputs):
            output, losses = self.forward(root, sample)
            results = _outcomes(output, losses)
            total = _contracted(output) if losses is None else _total(losses)
            with _named_errors():
                total.backward()
            results |= {
                f"gradient of {name}": x.grad for name, x in root.named_parameters() if x.grad is not None and x.numel()
            }
            dtype = torch.float64 if self._is_wide(inputs) else torch.float32
            results |= {
                f"{name} after the step": x.clone() if x.is_floating_point() else x.to(dtype)
                for name, x in root.named_buffers()
                if x.numel()
            }
            root.eval()
            with torch.no_grad():
                evaluated = _outcomes(*self.forward(root, sample))
        return results | {f"{name} in evaluation": x for name, x in evaluated.items()}

    def prepared(self, inputs: Sequence[Tensor]) -> tuple[nn.ModuleDict, list[Any]]:
        """A copy with these parameters and buffers, and the sample with these images."""
        root, (images, *labels) = copy.deepcopy(self._root), copy.deepcopy(tuple(self._subject.sample))
        if self._is_wide(inputs) or self._wide:  # in float64, or in float32 where that draws for float64
            root.to(inputs[0].dtype)
            labels = mapped(lambda x: x.to(inputs[0].dtype), labels)
        remaining = iter(inputs)
        images = mapped(lambda _: next(remaining).clone(), images)
        with torch.no_grad():
            for x, value in zip(_state(root), remaining, strict=True):
                x.copy_(value)
        return root, [images, *labels]

    def forward(self, root: nn.ModuleDict, sample: Sequence[Any]) -> tuple[Any, Any]:
        """Output and losses of a copy.

        Raises:
            StepError: the code of the step raised something.
            TypeError: it returned something else.
        """
        criterion = getattr(root, "criterion", self._subject.criterion)
        with _named_errors():
            returned: Any = self._subject.step(root["model"], criterion, *sample)
        if not isinstance(returned, (tuple, list)) or len(returned) != 2:
            raise TypeError(f"step: got one that returns {_described(returned)}, expected (output, losses)")
        output, losses = returned
        return output, losses

    @staticmethod
    def _is_wide(inputs: Sequence[Tensor]) -> bool:
        return all(x.dtype == torch.float64 for x in inputs)


def _state(root: nn.Module) -> list[Tensor]:
    return [*root.parameters(), *(x for x in root.buffers() if x.is_floating_point())]


def _described(returned: Any) -> str:
    values = f" of {len(returned)}" if isinstance(returned, (tuple, list)) else ""
    return f"{type(returned).__name__}{values}"


def _outcomes(output: Any, losses: Any) -> Results:
    with _named_errors():  # lazy maps are made
        named = {**named_tensors("output", output), **named_tensors("loss", losses)}
    return {name: x.detach().clone() for name, x in named.items()}


def _total(losses: Any) -> Tensor:
    """The scalar to minimise, in whichever form losses come."""
    if isinstance(losses, Mapping):
        total = losses.get("total")
    elif isinstance(losses, Tensor):
        total = losses
    else:
        total = getattr(losses, "total", losses[0] if isinstance(losses, (tuple, list)) and losses else None)
    if not isinstance(total, Tensor) or total.numel() != 1:
        expected = "a scalar, a mapping with 'total', an object with .total, or a tuple that begins with the scalar"
        raise TypeError(f"criterion: got {type(losses).__name__} without a total, expected {expected}")
    if not total.requires_grad:
        raise ValueError("model: got a loss that needs no gradient, expected one by parameters that are not all frozen")
    return total


def _contracted(output: Any) -> Tensor:
    """A scalar with a gradient by every output, the same at every call."""
    generator, terms = Generator().manual_seed(0), []
    for x in named_tensors("output", output).values():
        if x.requires_grad:
            terms.append((x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)).sum())
    if not terms:
        raise TypeError("model: got an output without tensors that have a gradient, expected some")
    return torch.stack(terms).sum()


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever code of others raises
        first_line = (str(error).splitlines() or [""])[0]
        raise StepError(f"{type(error).__name__}: {first_line}") from error


@contextmanager
def _without_randomness(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Refuses random numbers: two runs that draw others could not be compared. The generators stay as they were.

    Raises:
        ValueError: some were drawn.
    """
    devices = sorted({x.device.index for x in tensors if x.is_cuda})

    def states() -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(i) for i in devices)]

    before = states()
    try:
        yield
        drawn = not all(map(torch.equal, before, states()))
    finally:
        torch.set_rng_state(before[0])
        for i, state in zip(devices, before[1:], strict=True):
            torch.cuda.set_rng_state(state, i)
    if drawn:
        raise ValueError(
            "sample: got a training step that draws random numbers, expected none: set the rates of dropout to 0 for "
            "the check (modules with 'drop' or 'stochastic' in the name of their class, and without children, are off "
            "as it is)"
        )
