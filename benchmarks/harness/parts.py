"""Which part of a network is at work, forward and backward."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.autograd.graph import Node

from seqca.ops.verification.judge import leaves


class Parts:
    """Follows a pass forward that says where its parts begin, and the pass backward through the same parts.

    Args:
        entered: called with the part and the direction whenever one of them changes.
    """

    def __init__(self, entered: Callable[[str, str], None] = lambda part, direction: None) -> None:
        self._entered = entered
        self.start()

    def start(self) -> None:
        """Forgets what was before."""
        self.current, self.direction = "", "forward"
        self._nodes: dict[Node, str] = {}

    def begin(self, part: str, results: Any) -> None:
        """Begins a part, whose gradients belong to it too; `results` (tensors, nested) are those of the part before."""
        waiting = [x.grad_fn for x in leaves(results)]
        while waiting:
            node = waiting.pop()
            if node is None or node in self._nodes:
                continue
            self._nodes[node] = self.current
            node.register_prehook(partial(self._resume, self.current))
            waiting += [before for before, _ in node.next_functions]
        self._enter(part, self.direction)

    def turn(self, results: Any) -> None:
        """Ends the pass forward, whose results these are."""
        self.begin(self.current, results)
        self.direction = "backward"

    def _resume(self, part: str, _: Any) -> None:
        self._enter(part, "backward")

    def _enter(self, part: str, direction: str) -> None:
        if (part, direction) != (self.current, self.direction):
            self._entered(part, direction)
        self.current, self.direction = part, direction
