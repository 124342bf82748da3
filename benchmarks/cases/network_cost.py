"""What the network's cases cannot avoid, counted from shapes alone."""

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from seqca.configuration import NETWORK
from seqca.models import SequentialCrossAttentionNet
from seqca.nn.feature_propagation import HEADS
from seqca.ops.shared.dispatch import use_backend

from ..harness.case import Cost
from .shapes import CHANNELS, Dataset, tokens_per_scale


def cost(data: Dataset, direction: str) -> Cost:
    """What the network cannot avoid.

    Operations: those of the network on its reference, counted by torch on shapes alone, without what algebra saves: in
    the head a map that is concatenated several times enters the product once, and the first convolution runs before
    upsampling, at each map's own resolution. A training
    step takes three times the forward pass. Exponentials: of the softplus of queries and keys (and a logarithm) and of
    window attention. Bytes: images and parameters, and the parameters' gradients; what lies between could stay
    on the chip for all that shapes tell, so this floor is low.
    """
    passes = 3 if direction == "both" else 1
    operations, parameters = _counted(tuple(data.tasks.items()), data.batch, data.height, data.width)
    images = 3 * data.batch * data.height * data.width
    return Cost(
        4 * (images + (parameters if direction == "forward" else 2 * parameters)),
        passes * (operations - saved_operations(data)),
        exponentials(data),
    )


@cache
def _counted(tasks: tuple[tuple[str, int], ...], batch: int, height: int, width: int) -> tuple[int, int]:
    """Operations of the forward pass on the reference, from shapes alone, and the number of its parameters."""
    with torch.device("meta"), torch.no_grad():
        net = SequentialCrossAttentionNet(dict(tasks), drop_path=0.0)
        with use_backend("reference"), FlopCounterMode(display=False) as counter:
            net(torch.empty(batch, 3, height, width))
    return counter.get_total_flops(), sum(parameter.numel() for parameter in net.parameters())


def saved_operations(data: Dataset) -> int:
    """Operations of the forward pass that algebra avoids, see `cost`."""
    tokens = tokens_per_scale(data)
    scales = range(len(CHANNELS))
    last = scales[-1]
    concatenated = sum(2 * CHANNELS[k] * (last - k) for k in scales) + CHANNELS[last]
    distinct = sum((1 + last - k) * CHANNELS[k] * tokens[k] for k in scales)
    return data.batch * len(data.tasks) * 2 * concatenated * (concatenated * tokens[0] - distinct)


def exponentials(data: Dataset) -> int:
    """Exponentials and logarithms of the forward pass; backward can take them over."""
    tokens, tasks = tokens_per_scale(data), len(data.tasks)
    heads, window = NETWORK.attention_heads, NETWORK.window**2
    scales = range(len(CHANNELS))
    pairs = sum(tasks * (tasks - 1) * 2 * c * n for c, n in zip(CHANNELS, tokens, strict=True))
    across = sum(tasks * CHANNELS[k] * (tokens[k] + sum(tokens[k + 1 :])) for k in scales[:-1])
    windows = sum(2 * heads * window * n for n in tokens) + sum(HEADS * window * n for n in tokens[1:])
    return data.batch * (2 * (pairs + across) + windows)
