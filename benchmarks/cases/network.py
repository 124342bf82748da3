"""Cases of the whole network: inference, and the training step."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet, to_published_state
from seqca.network_calls import network_calls
from seqca.ops.shared.dispatch import BACKENDS, resolve, use_backend
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.verification.draws import Draw, Results, allowances, moved, plain_torch

from ..harness.case import DTYPES, MODES, Case, Cost, Expected, Inputs, Provider, Providers, in_mode
from ..harness.execution import Execution
from ..harness.judging import RelativeError, relative_error
from ..harness.operator_case import backend_refusal
from .labels import labels
from .network_cost import cost
from .published.network import PublishedNetwork, in_merged_form
from .published.objective import published_objective
from .published.window_attention import with_fused_attention
from .shapes import CaseSet, Dataset, nyud

DRAWS = 12
"""Of the reference's error: half as many as elsewhere, since each takes seconds."""


class Setting(NamedTuple):
    """What users change before they look for a faster network."""

    channels_last: bool = False
    """Images and weights in memory pixel by pixel."""
    tuned: bool = False
    """See `Provider`."""
    modes: tuple[str, ...] = ("eager",)
    """In which it is measured."""

    def of(self, name: str) -> str:
        """The name of a provider with this setting, but for its mode."""
        return ", ".join([name, *["channels-last"] * self.channels_last, *["tuned"] * self.tuned])


SDPA = "published, SDPA"
"""The published network with its window attention by torch's `scaled_dot_product_attention`."""

COARSE = "on a CPU torch's batch norm sums such maps in float32 one by one, which fails the check"

PLAIN = Setting(modes=MODES)
SETTINGS = (
    Setting(channels_last=True),
    Setting(tuned=True),
    Setting(channels_last=True, tuned=True, modes=("eager", "max-autotune")),
)


def cases(wanted: CaseSet) -> Iterator["NetworkCase"]:
    """Training step and inference on NYUD images; the step with two tasks, and on PASCAL images."""
    dtype = wanted.dtypes[0]
    data = nyud(wanted.datasets[0].batch)
    yield NetworkCase.of(data, dtype, "both", wanted)
    if wanted.name == "quick":
        return
    yield NetworkCase.of(data, dtype, "forward", wanted)
    two = data._replace(tasks={task: data.tasks[task] for task in ("semseg", "depth")})
    yield NetworkCase.of(two, dtype, "both", wanted)
    yield NetworkCase.of(wanted.datasets[-1], dtype, "both", wanted)
    if wanted.device == "cuda":
        yield NetworkCase.of(data, "fp32", "both", wanted)


@dataclass(frozen=True)
class NetworkCase(Case):
    """The network on a batch of images of one size.

    The pass `both` is a training step without its optimiser: forward pass, losses, gradients of all parameters.
    The pass `forward` is inference: evaluation mode, no gradient, predictions at stride 4. fp32 parameters;
    under autocast in other dtypes. Drop path is off, so that every provider computes the same numbers.
    """

    data: Dataset
    modes: tuple[str, ...]
    settings: tuple[Setting, ...]
    """Beside the plain one, of the baseline, the reference and the default backends."""

    @property
    def baseline(self) -> str:
        """The published sequence of operators: unlike the package's own reference it merges nothing, now or later."""
        return "published"

    @classmethod
    def of(cls, data: Dataset, dtype: str, direction: str, wanted: CaseSet) -> "NetworkCase":
        """The case for images of a data set."""
        what = "training" if direction == "both" else "inference"
        shape = f"{what}-{data.name}-tasks{len(data.tasks)}"
        sizes = {"tasks": len(data.tasks), "batch": data.batch, "height": data.height, "width": data.width}
        settings = SETTINGS if wanted.full else ()
        return cls("network", shape, dtype, direction, wanted.device, sizes, data, wanted.network_modes(), settings)

    def cost(self, provider: Provider) -> Cost:
        """The same for all."""
        return cost(self.data, self.direction)

    def parameters(self) -> list[Tensor]:
        """Parameters and buffers of all networks that take part."""
        nets = [make(last) for last in self._memory_formats() for make in (self._net, self._twin)]
        return [x for net in nets for x in (*net.parameters(), *net.buffers())]

    def providers(self) -> Providers:
        """The baseline, the reference, the default backends (`auto`), and all that can be forced on every operator."""
        providers, state = Providers([], {}), self._net().state_dict()
        for channels_last in self._memory_formats():
            self._net(channels_last).load_state_dict(state)
            self._twin(channels_last).load_state_dict(to_published_state(state))
        made = [self._baseline("published", PLAIN, mode) for mode in MODES]
        if self.settings:
            made.append(self._baseline(SDPA, PLAIN, "eager"))
        made += [self._baseline("published", setting, mode) for setting in self.settings for mode in setting.modes]
        for backend in ("reference", "auto", *BACKENDS[1:]):
            if backend in BACKENDS[1:] and (reason := self._refusal(backend)) is not None:
                providers.unavailable[backend] = reason
                continue
            settings = (PLAIN, *(self.settings if backend in ("reference", "auto") else ()))
            made += [self._own(backend, setting, mode) for setting in settings for mode in setting.modes]
        for provider in made:
            if "channels-last" in provider.name and self.device == "cpu" and self.direction == "both":
                providers.unavailable[provider.name] = COARSE
            elif provider.captured and self.direction == "both" and provider.name.startswith("published"):
                providers.unavailable[provider.name] = "its losses wait for the number of valid pixels (masked_select)"
            else:
                providers.add(provider, self.device, self.direction, self.modes)
        return providers

    def inputs(self, generator: Generator) -> Inputs:
        """Random images and labels."""
        data, net = self.data, self._net()
        images = torch.randn(data.batch, 3, data.height, data.width, generator=generator, device=self.device)
        arguments: dict[str, Any] = {"images": images}
        if self.direction == "forward":
            return Inputs(arguments, [], None)
        arguments["targets"] = labels(data, generator)
        return Inputs(arguments, list(net.parameters()), None)

    def expected(self, provider: Provider, generator: Generator) -> Expected:
        """The reference in a higher precision, float64 or for half precision float32, and draws of its errors.

        Images are moved by units in the last place of the case's dtype, which they are rounded to.
        """
        net, dtype, steps = self._net(), DTYPES[self.dtype], Generator().manual_seed(0)
        higher = torch.float64 if self.dtype == "fp32" else torch.float32
        inputs = self.inputs(generator)
        images = inputs.arguments["images"].to(dtype)
        twin = SequentialCrossAttentionNet(self.data.tasks, drop_path=0.0).to(self.device, higher).train(net.training)
        twin.load_state_dict(net.state_dict())
        plain = Execution(Provider("reference", self._function(net), "reference"), self.direction)
        precise = Execution(Provider("exact", self._function(twin, "fp32"), "reference"), self.direction)

        def evaluated(execution: Execution, parameters: list[nn.Parameter], images: Tensor) -> Results:
            leaves = list(parameters) if inputs.leaves else []
            return self.judged(execution.evaluate(Inputs({**inputs.arguments, "images": images}, leaves, None)))

        def draw() -> Draw:
            near = moved(images, steps)
            rough = evaluated(plain, list(net.parameters()), near.float())
            return Draw(rough, evaluated(precise, list(twin.parameters()), near.to(higher)))

        with use_backend("reference"), plain_torch():
            exact = evaluated(precise, list(twin.parameters()), images.to(higher))
            allowance = allowances(draw, self.norms, DRAWS)
        return Expected(inputs._replace(arguments={**inputs.arguments, "images": images.float()}), exact, allowance)

    def norms(self, actual: Tensor, exact: Tensor) -> RelativeError:
        """Of a prediction, of the loss or of the gradient of a part, as one vector."""
        return relative_error(actual, exact)

    def _baseline(self, name: str, setting: Setting, mode: str) -> Provider:
        """The published network on copies of the network's parameters, which it differentiates in their place."""
        net = self._twin(setting.channels_last)
        function = self._function(net, objective=published_objective, channels_last=setting.channels_last)
        if name == SDPA:
            function = with_fused_attention(net, function)
        leaves = {key: parameter for key, parameter in net.named_parameters() if parameter.requires_grad}

        def arranged(results: list[Tensor]) -> list[Tensor]:
            gradients = dict(zip(leaves, results[1:], strict=True))
            keys = (key for key, _ in self._net().named_parameters())
            return [results[0], *in_merged_form(gradients, keys, list(self.data.tasks))]

        provider = Provider(in_mode(setting.of(name), mode), function, "reference", mode, setting.tuned)
        if self.direction == "forward":
            return provider
        return replace(provider, leaves=list(leaves.values()), arranged=arranged)

    def _own(self, backend: str, setting: Setting, mode: str) -> Provider:
        """The package's network on a backend."""
        net = self._net(setting.channels_last)
        name = in_mode(setting.of(backend), mode)
        function = self._function(net, channels_last=setting.channels_last)
        return Provider(name, function, backend, mode, setting.tuned, leaves=list(net.parameters()))

    def _refusal(self, backend: str) -> str | None:
        """Why a backend takes no part, or None."""
        chosen = set()
        calls = network_calls(self.data.tasks, self.data.height, self.data.width, self.data.batch)
        for operator in OPERATORS.values():
            for recorded in calls.get(operator.name, ()):
                call = recorded._replace(device=self.device, dtype=DTYPES[self.dtype])
                if (reason := backend_refusal(operator.name, backend, call)) is not None:
                    return f"{operator.name}: {reason}"
                chosen.add(resolve(operator, call))
        return "every operator chooses it, so it is auto here" if chosen == {backend} else None

    def _memory_formats(self) -> set[bool]:
        """Whether channels-last, of the networks that take part."""
        return {False, *(setting.channels_last for setting in self.settings)}

    def _net(self, channels_last: bool = False) -> SequentialCrossAttentionNet:
        return network(tuple(self.data.tasks.items()), self.device, channels_last).train(self.direction == "both")

    def _twin(self, channels_last: bool = False) -> PublishedNetwork:
        tasks = tuple(self.data.tasks.items())
        return published_network(tasks, self.device, channels_last).train(self.direction == "both")

    def _function(
        self,
        net: nn.Module,
        dtype: str | None = None,
        objective: Callable[..., Tensor] | None = None,
        channels_last: bool = False,
    ) -> Callable[..., Any]:
        dtype = dtype or self.dtype
        criterion = MultiTaskLoss(self.data.tasks)
        objective = objective or (lambda output, targets: criterion(output, targets).total)
        half = dtype != "fp32"
        layout = _layout(channels_last)

        def infer(images: Tensor) -> Any:
            with torch.autocast(self.device, DTYPES[dtype] if half else None, enabled=half):
                return net(images.contiguous(memory_format=layout)).final

        def step(images: Tensor, targets: dict[str, Tensor]) -> Tensor:
            with torch.autocast(self.device, DTYPES[dtype] if half else None, enabled=half):
                return objective(net(images.contiguous(memory_format=layout)), targets)

        return infer if self.direction == "forward" else step

    def judged(self, results: list[Tensor]) -> Results:
        """Predictions by task; or the loss, and the gradients by kinds of layers."""
        if self.direction == "forward":
            return dict(zip(self.data.tasks, results, strict=True))
        names = [name for name, _ in self._net().named_parameters()]
        return {"loss": results[0], **by_kinds_of_layers(dict(zip(names, results[1:], strict=True)), self.data.tasks)}


def by_kinds_of_layers(gradients: Mapping[str, Tensor], tasks: Collection[str]) -> Results:
    """The gradients of all layers whose names differ in nothing but numbers and tasks, in one vector.

    In fewer and larger vectors small gradients, such as those of queries, would not count.

    Args:
        gradients: of a network's parameters, by name.
        tasks: of the network.
    """
    kinds: dict[str, list[Tensor]] = {}
    for name, gradient in gradients.items():
        kind = ".".join(word for word in name.split(".")[:-1] if not word.isdigit() and word not in tasks)
        kinds.setdefault(f"gradient of {kind}", []).append(gradient.flatten())
    return {kind: torch.cat(found) for kind, found in kinds.items()}


@cache
def network(
    tasks: tuple[tuple[str, int], ...], device: str, channels_last: bool = False
) -> SequentialCrossAttentionNet:
    """The network with random weights, the same in every run, and few units near their kinks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = clear_of_kinks(SequentialCrossAttentionNet(dict(tasks), drop_path=0.0))
    return net.to(device, memory_format=_layout(channels_last))


def clear_of_kinks(net: SequentialCrossAttentionNet) -> SequentialCrossAttentionNet:
    """Moves what enters the ReLUs up by three standard deviations, so that results can be judged.

    Two right results differ by all that passes a unit whose argument they put on two sides of 0. Of many units some are
    always so near: with arguments around 0 the gradients of two right kernels differ by 90 % in bfloat16, and two
    deviations away a step on an image of 480×640 still met such a unit in float32.
    """
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(3)
    return net


@cache
def published_network(tasks: tuple[tuple[str, int], ...], device: str, channels_last: bool = False) -> PublishedNetwork:
    """The published network; the caller loads its weights."""
    return PublishedNetwork(dict(tasks)).to(device, memory_format=_layout(channels_last))


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
