"""The metrics of several tasks together."""

from collections.abc import Mapping

from torch import Tensor, nn

from seqca.protocols import DEFAULT, get_protocol
from seqca.tasks import Score


class MultiTaskMetric(nn.Module):
    """Each task's metric, under one roof.

    Args:
        tasks: {name: channels of its raw output}, as the network takes them.
        scores: {name: how it is scored on this data set}, where it is not the task's own way.
        protocol: "mtinet" or "invpt", which define some tasks differently.
        quick: score fast and only roughly right where a score has such a setting, as odsF has.
    """

    def __init__(
        self,
        tasks: Mapping[str, int],
        scores: Mapping[str, Score] | None = None,
        protocol: str = DEFAULT,
        *,
        quick: bool = False,
    ) -> None:
        super().__init__()
        rules = get_protocol(protocol)
        self.metrics = nn.ModuleDict(
            {
                name: rules.task(name).build_metric(channels, (scores or {}).get(name), quick=quick)
                for name, channels in tasks.items()
            }
        )

    def update(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add a batch: decoded predictions at the label's size and labels by task; other entries are not
        looked at."""
        for argument, mapping in (("predictions", predictions), ("targets", targets)):
            if missing := [name for name in self.metrics if name not in mapping]:
                got = ", ".join(mapping) or "nothing"
                raise ValueError(f"{argument}: got {got}, expected {', '.join(missing)} as well")
        for name, metric in self.metrics.items():
            try:
                metric.update(predictions[name], targets[name])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from error

    def compute(self) -> dict[str, Tensor]:
        """{"task/score": value}, over all processes where there are several."""
        return {
            f"{name}/{score}": value
            for name, metric in self.metrics.items()
            for score, value in metric.compute().items()
        }

    def reset(self) -> None:
        """Forget everything that was added."""
        for metric in self.metrics.values():
            metric.reset()
