"""What a data set is to the rest of the package."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from seqca.protocols import DEFAULT
from seqca.tasks import Score


class DenseDataset(Protocol):
    """Images with a label for every pixel, by index.

    A sample is a flat dict: "image" float32 (3, H, W), normalised (`seqca.data.normalise`); the label of every task as
    `seqca.tasks` describes it; "name", a string that identifies the sample in messages. Deriving from this class is
    possible, and gives `class_names` and `scores` that say nothing and the default protocol, but not needed.

    Attributes:
        tasks: {task: channels that a network has to predict}, in the order asked for.
        class_names: {task: names of its classes}, of those tasks that have classes.
        scores: {task: how it is scored on this data set}, of those tasks that are not scored in their own way.
        protocol: whose losses and evaluation hold, a name of `seqca.protocols`.
    """

    tasks: Mapping[str, int]
    class_names: Mapping[str, Sequence[str]] = {}
    scores: Mapping[str, Score] = {}
    protocol: str = DEFAULT

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...
