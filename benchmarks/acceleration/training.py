"""A training of another code base, and what it gives step by step."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from seqca.ops.verification.draws import Results

LEARNING_RATE = 1e-4

Batch = tuple[Tensor, dict[str, Tensor]]
"""Images (B, 3, H, W) and labels by task."""


class Size(NamedTuple):
    """Of a batch."""

    images: int
    height: int
    width: int


class SizeError(ValueError):
    """Images that a network cannot take."""


class Training(NamedTuple):
    """A model of another code base with its objective, and batches as its loader would make them."""

    model: nn.Module
    criterion: nn.Module
    batch: Callable[[Generator], Batch]

    def copy(self, dtype: torch.dtype = torch.float32) -> "Training":
        """The same with parameters of its own, in a dtype."""
        return self._replace(model=deepcopy(self.model).to(dtype), criterion=deepcopy(self.criterion).to(dtype))

    def loss(self, images: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """The objective, a scalar."""
        total: Tensor = self.criterion(self.model(images), labels)["total"]
        return total

    def parameters(self) -> list[nn.Parameter]:
        """Of the model."""
        return list(self.model.parameters())

    def losses(self, batches: Iterable[Batch]) -> Results:
        """The objective before each of the optimiser's steps (Adam), which the training takes."""
        optimiser = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)
        self.model.train()
        found: dict[str, Tensor] = {}
        for step, batch in enumerate(batches, 1):
            optimiser.zero_grad()
            loss = self.loss(*batch)
            loss.backward()
            optimiser.step()
            found[f"loss of step {step}"] = loss.detach()
        return found


def without_randomness(model: nn.Module) -> nn.Module:
    """The model with every rate of dropping set to 0, so that trainings in two dtypes compute the same function."""
    for module in model.modules():
        for name in ("p", "drop_prob"):
            rate: Any = getattr(module, name, None)
            if "Drop" in type(module).__name__ and isinstance(rate, float):
                setattr(module, name, 0.0)
    return model
