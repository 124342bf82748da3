"""Cases of the whole network: inference, and the training step."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seqca.configuration import NETWORK
from seqca.loss_type import Loss
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet, to_published_state
from seqca.network_calls import network_calls
from seqca.nn.feature_propagation import HEADS
from seqca.ops.shared.dispatch import BACKENDS, resolve, use_backend
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.verification.draws import Draw, Results, allowances, moved, plain_torch
from seqca.tasks import get_task

from ..harness.case import DTYPES, MODES, Case, Cost, Expected, Inputs, Provider, Providers, in_mode
from ..harness.execution import Execution
from ..harness.judging import RelativeError, relative_error
from ..harness.operator_case import backend_refusal
from .published import PublishedNetwork, in_merged_form, published_objective
from .shapes import CHANNELS, CaseSet, Dataset, nyud, tokens_per_scale
from .upsampled_loss import label

DRAWS = 12
"""Of the reference's error: half as many as elsewhere, since each takes seconds."""


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
        return cls("network", shape, dtype, direction, wanted.device, sizes, data, wanted.network_modes())

    def cost(self, provider: Provider) -> Cost:
        """The same for all."""
        return cost(self.data, self.direction)

    def parameters(self) -> list[Tensor]:
        """Parameters and buffers."""
        return [x for net in (self._net(), self._twin()) for x in (*net.parameters(), *net.buffers())]

    def providers(self) -> Providers:
        """The baseline, the reference, the default backends (`auto`), and all that can be forced on every operator."""
        providers = Providers([], {})
        self._twin().load_state_dict(to_published_state(self._net().state_dict()))
        for mode in MODES:
            baseline = self._baseline(mode)
            if baseline.captured and self.direction == "both":
                providers.unavailable[baseline.name] = "its losses wait for the number of valid pixels (masked_select)"
            else:
                providers.add(baseline, self.device, self.direction, self.modes)
        function = self._function(self._net())
        for backend in ("reference", "auto", *BACKENDS[1:]):
            if backend in BACKENDS[1:] and (reason := self._refusal(backend)) is not None:
                providers.unavailable[backend] = reason
                continue
            for mode in MODES:
                provider = Provider(in_mode(backend, mode), function, backend, mode)
                providers.add(provider, self.device, self.direction, self.modes)
        return providers

    def inputs(self, generator: Generator) -> Inputs:
        """Random images and labels."""
        data, net = self.data, self._net()
        images = torch.randn(data.batch, 3, data.height, data.width, generator=generator, device=self.device)
        arguments: dict[str, Any] = {"images": images}
        if self.direction == "forward":
            return Inputs(arguments, [], None)
        arguments["targets"] = {
            task: label(loss, channels, data, generator)
            for task, channels in data.tasks.items()
            if isinstance(loss := get_task(task).loss, Loss)
        }
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

    def _baseline(self, mode: str) -> Provider:
        """The published network on copies of the network's parameters, which it differentiates in their place."""
        net = self._twin()
        name, function = in_mode("published", mode), self._function(net, objective=published_objective)
        if self.direction == "forward":
            return Provider(name, function, "reference", mode)
        leaves = {key: parameter for key, parameter in net.named_parameters() if parameter.requires_grad}

        def arranged(results: list[Tensor]) -> list[Tensor]:
            gradients = dict(zip(leaves, results[1:], strict=True))
            keys = (key for key, _ in self._net().named_parameters())
            return [results[0], *in_merged_form(gradients, keys, list(self.data.tasks))]

        return Provider(name, function, "reference", mode, leaves=list(leaves.values()), arranged=arranged)

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

    def _net(self) -> SequentialCrossAttentionNet:
        return network(tuple(self.data.tasks.items()), self.device).train(self.direction == "both")

    def _twin(self) -> PublishedNetwork:
        return published_network(tuple(self.data.tasks.items()), self.device).train(self.direction == "both")

    def _function(
        self, net: nn.Module, dtype: str | None = None, objective: Callable[..., Tensor] | None = None
    ) -> Callable[..., Any]:
        dtype = dtype or self.dtype
        criterion = MultiTaskLoss(self.data.tasks)
        objective = objective or (lambda output, targets: criterion(output, targets).total)
        half = dtype != "fp32"

        def infer(images: Tensor) -> Any:
            with torch.autocast(self.device, DTYPES[dtype] if half else None, enabled=half):
                return net(images).final

        def step(images: Tensor, targets: dict[str, Tensor]) -> Tensor:
            with torch.autocast(self.device, DTYPES[dtype] if half else None, enabled=half):
                return objective(net(images), targets)

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
def network(tasks: tuple[tuple[str, int], ...], device: str) -> SequentialCrossAttentionNet:
    """The network with random weights, the same in every run, and few units near their kinks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return clear_of_kinks(SequentialCrossAttentionNet(dict(tasks), drop_path=0.0)).to(device)


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


def cost(data: Dataset, direction: str) -> Cost:
    """What the network cannot avoid.

    Operations: those of the network on its reference, counted by torch on shapes alone, without what algebra saves: in
    the head a map that is concatenated several times enters the product once, and the first convolution runs before
    upsampling, at each map's own resolution. A training
    step takes three times the forward pass. Exponentials: of the softplus of queries and keys (and a logarithm) and of
    window attention. Bytes: images and parameters, and the parameters' gradients; what lies between could stay
    on the chip for all that shapes tell, so this floor is low.
    """
    passes = 3 if direction == "both" else 1
    operations, parameters = _counted(tuple(data.tasks.items()), data.batch, data.height, data.width)
    images = 3 * data.batch * data.height * data.width
    return Cost(
        4 * (images + (parameters if direction == "forward" else 2 * parameters)),
        passes * (operations - saved_operations(data)),
        exponentials(data),
    )


@cache
def published_network(tasks: tuple[tuple[str, int], ...], device: str) -> PublishedNetwork:
    """The published network; the caller loads its weights."""
    return PublishedNetwork(dict(tasks)).to(device)


@cache
def _counted(tasks: tuple[tuple[str, int], ...], batch: int, height: int, width: int) -> tuple[int, int]:
    """Operations of the forward pass on the reference, from shapes alone, and the number of its parameters."""
    with torch.device("meta"), torch.no_grad():
        net = SequentialCrossAttentionNet(dict(tasks), drop_path=0.0)
        with use_backend("reference"), FlopCounterMode(display=False) as counter:
            net(torch.empty(batch, 3, height, width))
    return counter.get_total_flops(), sum(parameter.numel() for parameter in net.parameters())


def saved_operations(data: Dataset) -> int:
    """Operations of the forward pass that algebra avoids, see `cost`."""
    tokens = tokens_per_scale(data)
    scales = range(len(CHANNELS))
    last = scales[-1]
    concatenated = sum(2 * CHANNELS[k] * (last - k) for k in scales) + CHANNELS[last]
    distinct = sum((1 + last - k) * CHANNELS[k] * tokens[k] for k in scales)
    return data.batch * len(data.tasks) * 2 * concatenated * (concatenated * tokens[0] - distinct)


def exponentials(data: Dataset) -> int:
    """Exponentials and logarithms of the forward pass; backward can take them over."""
    tokens, tasks = tokens_per_scale(data), len(data.tasks)
    heads, window = NETWORK.attention_heads, NETWORK.window**2
    scales = range(len(CHANNELS))
    pairs = sum(tasks * (tasks - 1) * 2 * c * n for c, n in zip(CHANNELS, tokens, strict=True))
    across = sum(tasks * CHANNELS[k] * (tokens[k] + sum(tokens[k + 1 :])) for k in scales[:-1])
    windows = sum(2 * heads * window * n for n in tokens) + sum(HEADS * window * n for n in tokens[1:])
    return data.batch * (2 * (pairs + across) + windows)
