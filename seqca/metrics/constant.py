"""The best that a prediction can score which does not look at the image."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from seqca.metrics.base import TaskMetric
from seqca.tasks import Score, get_task


def best_constant(
    task: str,
    labels: Iterable[Tensor | Mapping[str, Tensor]],
    channels: int | None = None,
    score: Score | None = None,
) -> dict[str, float]:
    """Scores of the best constant prediction, the best for the primary score on these very labels.

    Args:
        task: name of a registered task.
        labels: the evaluated set in batches, gone through twice: label tensors with batch dimension, or
            mappings (of a data loader) that hold them under the task's name.
        channels: of the raw output (the number of classes), where the task leaves it to the data set.
        score: the data set's own, where it is not the task's.

    Returns:
        {score: value}, from the task's own metric.
    """
    if iter(labels) is labels:
        raise TypeError(f"labels: got {type(labels).__name__}, expected what can be gone through twice, no iterator")
    metric = get_task(task).build_metric(channels, score)
    if not isinstance(metric, TaskMetric):
        raise TypeError(
            f"score: got the metric {type(metric).__name__}, expected a TaskMetric, which knows its best constant"
        )

    def batches() -> Iterable[Tensor]:
        return (batch[task] if isinstance(batch, Mapping) else batch for batch in labels)

    constant = metric.best_constant(batches())
    for label in batches():
        value = constant.to(label.device)
        metric.update(value.view(-1, 1, 1).expand_as(label) if value.ndim else value.expand_as(label), label)
    return {score: float(value) for score, value in metric.compute().items()}
