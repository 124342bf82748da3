"""What attends to what in a call of `cross_attention`, and the pairs that the network asks for."""

from typing import NamedTuple


class Branch(NamedTuple):
    """What is computed from one map, in blocks of C channels.

    Its layers are [projection, if projected], hidden, features, [values, if it has keys]; each is a 1×1 convolution and
    a batch norm. Blocks of queries stand in front of those of keys.
    """

    map: int
    """Its index among the maps."""
    queries: int = 0
    """Blocks that attend."""
    keys: int = 0
    """Blocks that are attended to, and as many of values."""
    projected: bool = False
    """Whether the layers read a projection of the map to C channels, without activation, in place of the map."""


class Pair(NamedTuple):
    """Queries that attend to keys, each given by the index of its branch and the block there."""

    target: int
    query: int
    source: int
    key: int


def between_tasks(tasks: int) -> tuple[list[Branch], list[Pair]]:
    """Every ordered pair of tasks with layers of its own, the last source of a target first; maps are those of tasks.

    A task has a block of queries and one of keys for each of the others, in their order.

    Raises:
        ValueError: fewer than two tasks.
    """
    if tasks < 2:
        raise ValueError(f"tasks: got {tasks}, expected at least two")
    branches = [Branch(i, queries=tasks - 1, keys=tasks - 1) for i in range(tasks)]
    pairs = [
        Pair(i, j - (j > i), j, i - (i > j))  # blocks of those after a task itself move up by one
        for i in range(tasks)
        for j in reversed(range(tasks))
        if j != i
    ]
    return branches, pairs


def from_coarser(tasks: int, coarser: int) -> tuple[list[Branch], list[Pair]]:
    """The map of each task attends to its own coarser ones by the same queries; maps are task by task, finest first."""
    branches, pairs = [], []
    for target in range(0, tasks * (1 + coarser), 1 + coarser):
        sources = range(target + 1, target + 1 + coarser)
        branches += [Branch(target, queries=1), *(Branch(j, keys=1, projected=True) for j in sources)]
        pairs += [Pair(target, 0, j, 0) for j in sources]
    return branches, pairs
