"""Mean intersection over union."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from seqca.metrics.base import TaskMetric, check_same_shape, check_tensors

CLASS_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class MeanIoU(TaskMetric):
    """Mean over the classes of TP / (TP + FP + FN), counted over the whole data set.

    Protocol `mtinet`: the mean is over all classes, background included, and a class that occurs neither in
    the labels nor in the predictions counts as 0.

    Args:
        classes: number of classes C.
        ignore: label of the pixels that are left out.
    """

    hits: Tensor
    predicted: Tensor
    labelled: Tensor

    def __init__(self, classes: int, ignore: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            raise ValueError(f"classes: got {classes!r}, expected a positive integer")
        self.classes, self.ignore = classes, ignore
        for state in ("hits", "predicted", "labelled"):
            self.add_sum(state, classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count: prediction (B, H, W) class indices in [0, C), target the same or `ignore`."""
        check_tensors(prediction, target)
        for argument, tensor in (("prediction", prediction), ("target", target)):
            if tensor.dtype not in CLASS_DTYPES:
                raise ValueError(f"{argument}: got {tensor.dtype}, expected integers")
            if tensor.ndim != 3:
                raise ValueError(f"{argument}: got shape {tuple(tensor.shape)}, expected (B, H, W)")
        check_same_shape(prediction, target)
        valid = self.evaluated(target)
        prediction, target = prediction[valid], target[valid]
        # All three are counted before the first is added: a batch that is refused leaves no trace.
        predicted, labelled = self._count("prediction", prediction), self._count("target", target)
        self.hits += self._count("prediction", prediction[prediction == target])
        self.predicted += predicted
        self.labelled += labelled

    def evaluated(self, target: Tensor) -> Tensor:
        """The pixels that count, a mask of the target's shape."""
        return target != self.ignore

    def _count(self, argument: str, classes: Tensor) -> Tensor:
        if classes.numel() and not 0 <= classes.min() <= classes.max() < self.classes:
            raise ValueError(
                f"{argument}: got {classes.min()} to {classes.max()}, expected classes 0 to {self.classes - 1}"
            )
        return classes.bincount(minlength=self.classes)

    def compute(self) -> dict[str, Tensor]:
        """{"mIoU": in [0, 1]}."""
        union = self.predicted + self.labelled - self.hits
        return {"mIoU": (self.hits.double() / union.clamp(min=1)).mean()}

    def best_constant(self, labels: Iterable[Tensor]) -> Tensor:
        """The most frequent class: its IoU is its share of the evaluated pixels, that of all others 0."""
        counts = torch.zeros(self.classes, dtype=torch.int64)
        for label in labels:
            counts += self._count("target", label[self.evaluated(label)]).cpu()
        return counts.argmax()


class HumanPartsIoU(MeanIoU):
    """`MeanIoU` of PASCAL-Context's six human parts and background.

    Protocol `mtinet`: an image without a person, whose label holds nothing but background and ignored pixels,
    is left out, whatever is predicted there.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(classes=7, **kwargs)

    def evaluated(self, target: Tensor) -> Tensor:
        """The labelled pixels of the images that show a person."""
        labelled = super().evaluated(target)
        shows_person = (labelled & (target != 0)).flatten(1).any(1)
        return labelled & shows_person[:, None, None]
