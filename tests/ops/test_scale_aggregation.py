"""What holds for `scale_aggregation` alone; what every operator must do is asked in registered/."""

import pytest
import torch
from torch import Generator, Tensor

from seqca.ops import scale_aggregation, use_backend
from seqca.ops.samples.scale_aggregation import maps_and_weight
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.shared.sample import Sample
from seqca.ops.verification.judge import cotangents, evaluate, judge, rounded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def maps_and_float_weight() -> tuple[list[Tensor], Tensor]:
    """Maps of three scales, of 3, 4 and 5 channels."""
    maps, weight, _ = maps_and_weight(8, [(8, 12), (4, 6), (2, 3)], Generator().manual_seed(0))
    return [x.float() for x in maps], weight.float()


def test_a_map_that_stands_twice_is_read_once() -> None:
    maps, weight = maps_and_float_weight()
    second = weight[:, :3].flip(0)
    merged = torch.cat([weight[:, :3] + second, weight[:, 3:]], 1)
    with use_backend("aten"):
        twice = scale_aggregation([*maps, maps[0]], torch.cat([weight, second], 1))
        once = scale_aggregation(maps, merged)
    assert torch.equal(twice, once)


@pytest.mark.parametrize("backend", ["aten", "triton"])
def test_takes_as_many_channels_as_a_network_has(backend: str) -> None:
    generator = Generator().manual_seed(0)
    maps, weight, bias = maps_and_weight(1440, [(2, 3), (1, 2)], generator)
    arguments = {"maps": maps, "weight": weight, "bias": bias}
    sample = rounded(Sample(arguments, tuple(arguments)), torch.float16, DEVICE)
    operator = OPERATORS["scale_aggregation"]
    gradients = cotangents(operator, sample, generator)
    with use_backend(backend):
        results = evaluate(scale_aggregation, sample, gradients)
    for verdict in judge(operator, sample, gradients, results):
        assert verdict.ok, str(verdict)


def test_refuses_a_map_that_is_larger_than_the_first() -> None:
    maps, weight = maps_and_float_weight()
    maps[2] = torch.zeros(3, 5, 9, 12)
    with pytest.raises(ValueError, match=r"maps\[2\]: got the size \(9, 12\), expected at most \(8, 12\)"):
        scale_aggregation(maps, weight)
