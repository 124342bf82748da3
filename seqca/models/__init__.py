"""The network and its checkpoints."""

from .network import NetworkOutput, SequentialCrossAttentionNet
from .published import from_published_state, published_tasks, to_published_state

__all__ = [
    "NetworkOutput",
    "SequentialCrossAttentionNet",
    "from_published_state",
    "published_tasks",
    "to_published_state",
]
