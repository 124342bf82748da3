"""What the metrics of all tasks share."""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric


class TaskMetric(Metric):
    """A metric over a whole data set, whose states are sums: processes agree by adding them up.

    `update(prediction, target)` takes predictions as the task decodes them, at the label's size; `compute()`
    returns {score: value}.
    """

    full_state_update = False

    @abstractmethod
    def best_constant(self, labels: Iterable[Tensor]) -> Tensor:
        """The value (C,), or () for classes, whose prediction at every pixel has the best primary score.

        Args:
            labels: the labels of the data set, batch by batch, as `update` takes them.
        """

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        """Declare a state of zeros that is summed over processes."""
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")


def check_maps(prediction: Tensor, target: Tensor, channels: int) -> None:
    """Refuse anything but two floating maps (B, channels, H, W) of one shape, the prediction finite."""
    for argument, tensor in (("prediction", prediction), ("target", target)):
        if not tensor.is_floating_point():
            raise TypeError(f"{argument} must be floating, got {tensor.dtype}")
        if tensor.ndim != 4 or tensor.shape[1] != channels:
            raise ValueError(f"{argument} must be (B, {channels}, H, W), got {tuple(tensor.shape)}")
    check_same_shape(prediction, target)
    if not prediction.isfinite().all():
        raise ValueError("prediction holds NaN or infinity")


def check_probability(prediction: Tensor, target: Tensor) -> None:
    """Refuse anything but a map of probabilities (B, 1, H, W) and a label of its shape."""
    check_maps(prediction, target, 1)
    if prediction.numel() and not 0 <= prediction.min() <= prediction.max() <= 1:
        raise ValueError(f"prediction must hold probabilities in [0, 1], got {prediction.min()} … {prediction.max()}")


def check_same_shape(prediction: Tensor, target: Tensor) -> None:
    """Refuse a prediction that does not have the label's size."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction must have the target's shape {tuple(target.shape)}, got {tuple(prediction.shape)}"
        )
