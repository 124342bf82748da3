"""How a training step is run: compiled as one graph, or captured whole as a CUDA graph."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from lightning import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from seqca.losses import LossOutput

Objective = Callable[[Tensor, Mapping[str, Tensor]], LossOutput]
"""Images (B, 3, H, W) and {task: label} → losses."""

Compilation = bool | Literal["reduce-overhead"]
"""Whether a step is compiled; "reduce-overhead" is a mode of torch.compile."""

WARM_UPS = 3
"""Runs before a capture, in which libraries choose and allocate what they need."""


def check_settings(compilation: Compilation, cuda_graph: bool) -> None:
    """Refuse settings that mean nothing, or nothing together.

    Raises:
        ValueError: names the setting.
    """
    if not isinstance(compilation, bool) and compilation != "reduce-overhead":
        raise ValueError(f"compile: got {compilation!r}, expected True, False or 'reduce-overhead'")
    if not isinstance(cuda_graph, bool):
        raise ValueError(f"cuda_graph: got {cuda_graph!r}, expected True or False")
    if cuda_graph and compilation == "reduce-overhead":
        raise ValueError("cuda_graph: got True with compile='reduce-overhead', expected one of them: both capture")


def check_trainer(trainer: Trainer, compilation: Compilation, cuda_graph: bool) -> None:
    """Refuse a run whose steps cannot be captured.

    Raises:
        ValueError: with the reason.
    """
    if not cuda_graph and compilation != "reduce-overhead":
        return
    if (batches := trainer.accumulate_grad_batches) != 1:
        setting = "cuda_graph" if cuda_graph else f"compile={compilation}"
        raise ValueError(
            f"accumulate_grad_batches: got {batches} with {setting}, expected 1: a replay overwrites the gradients"
        )
    if not cuda_graph:
        return
    strategy = trainer.strategy
    if not isinstance(strategy, SingleDeviceStrategy):
        name = type(strategy).__name__
        raise ValueError(f"cuda_graph: got True with {name}, expected one process: exchanges are not captured")
    if strategy.root_device.type != "cuda":
        raise ValueError(f"cuda_graph: got True on the device {strategy.root_device}, expected a CUDA GPU")
    if trainer.scaler is not None:
        raise ValueError(
            f"cuda_graph: got True with precision={trainer.precision}, expected bf16-mixed or another that does not "
            "scale the loss: the scale would be captured"
        )


def compiled(objective: Objective, compilation: Compilation) -> Objective:
    """The objective as one graph of torch.compile, made in the first call, and anew for batches of other shapes.

    What cannot be in one graph is an error there.
    """
    mode = None if isinstance(compilation, bool) else compilation
    return torch.compile(objective, fullgraph=True, dynamic=False, mode=mode)


class CapturedStep:
    """Forward pass, losses and backward pass as a CUDA graph (torch's notes on CUDA semantics, whole-network capture).

    The first batch is run some times and captured; running statistics and random numbers are afterwards as they were
    before. From then on a call copies the batch to where the graph reads it and replays the graph.

    Args:
        objective: what is minimised.
        module: holds all parameters that it reads and all buffers that it changes; on a CUDA device.
    """

    def __init__(self, objective: Objective, module: nn.Module) -> None:
        self._objective, self._module = objective, module
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, targets: Mapping[str, Tensor]) -> LossOutput:
        """Losses of a batch, in tensors that the next call overwrites; `set_gradients` has their gradients.

        Raises:
            ValueError: a batch of other shapes than the first one.
        """
        batch = {"image": images, **targets}
        if self._graph is None:
            self._graph = self._capture(batch)
        if shapes(batch) != shapes(self._batch):
            raise ValueError(
                f"batch: got {shapes(batch)}, expected {shapes(self._batch)} as in the first one, which was captured "
                "as a CUDA graph (drop_last=True leaves out the rest of an epoch)"
            )
        for name, x in batch.items():
            self._batch[name].copy_(x, non_blocking=True)
        self._graph.replay()
        return self._losses

    def set_gradients(self) -> None:
        """Gives the parameters the gradients of the last call, whatever they have had since: trainers set them None."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def _capture(self, batch: Mapping[str, Tensor]) -> torch.cuda.CUDAGraph:
        device = batch["image"].device
        self._batch = {name: x.clone() for name, x in batch.items()}
        before = [(buffer, buffer.clone()) for buffer in self._module.buffers()]
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        # Weights that autocast has cast and kept would be read for ever as they are now.
        autocast = torch.autocast(
            device.type,
            torch.get_autocast_dtype(device.type),
            enabled=torch.is_autocast_enabled(device.type),
            cache_enabled=False,
        )
        with torch.random.fork_rng([device]), autocast:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._module.zero_grad()
                    self._run()
            torch.cuda.current_stream().wait_stream(stream)
            self._module.zero_grad()  # so that the gradients are made anew, in the memory of the graph
            # The thread that pins a loader's batches calls CUDA meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._losses = self._run()
        self._gradients = [(parameter, parameter.grad) for parameter in self._module.parameters()]
        for buffer, value in before:
            buffer.copy_(value)
        return graph

    def _run(self) -> LossOutput:
        targets = {name: x for name, x in self._batch.items() if name != "image"}
        losses = self._objective(self._batch["image"], targets)
        with torch.autocast(self._batch["image"].device.type, enabled=False):  # as the trainer's backward pass is
            losses.total.backward()
        return LossOutput(losses.total.detach(), {name: part.detach() for name, part in losses.parts.items()})


def shapes(batch: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """By name."""
    return {name: tuple(x.shape) for name, x in batch.items()}
