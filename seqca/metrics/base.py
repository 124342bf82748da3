"""What the metrics of all tasks share."""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric

from seqca.loss_type import LABEL_DTYPES


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
    """Refuse anything but two finite floating-point maps (B, channels, H, W) of one shape."""
    check_tensors(prediction, target)
    for argument, tensor in (("prediction", prediction), ("target", target)):
        if not tensor.is_floating_point():
            raise TypeError(f"{argument}: got {tensor.dtype}, expected a floating-point dtype")
        if tensor.ndim != 4 or tensor.shape[1] != channels:
            raise ValueError(f"{argument}: got shape {tuple(tensor.shape)}, expected (B, {channels}, H, W)")
    if target.dtype not in LABEL_DTYPES:
        raise TypeError(f"target: got {target.dtype}, expected one of {', '.join(map(str, LABEL_DTYPES))}")
    check_same_shape(prediction, target)
    for argument, tensor in (("prediction", prediction), ("target", target)):
        if not tensor.isfinite().all():
            raise ValueError(f"{argument}: got NaN or infinity, expected finite numbers")


def check_probability(prediction: Tensor, target: Tensor) -> None:
    """Refuse anything but a map of probabilities (B, 1, H, W) and a label of its shape."""
    check_maps(prediction, target, 1)
    if prediction.numel() and not 0 <= prediction.min() <= prediction.max() <= 1:
        raise ValueError(f"prediction: got {prediction.min()} to {prediction.max()}, expected probabilities in [0, 1]")


def check_tensors(prediction: Tensor, target: Tensor) -> None:
    """Refuse anything but two tensors on one device."""
    for argument, tensor in (("prediction", prediction), ("target", target)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{argument}: got {type(tensor).__name__}, expected a tensor")
    if prediction.device != target.device:
        raise ValueError(f"target: got a tensor on {target.device}, expected {prediction.device} as of the prediction")


def check_same_shape(prediction: Tensor, target: Tensor) -> None:
    """Refuse a prediction that does not have the label's size."""
    if prediction.shape != target.shape:
        shapes = tuple(prediction.shape), tuple(target.shape)
        raise ValueError(f"prediction: got shape {shapes[0]}, expected {shapes[1]} as of the target")
