"""Cross attention on Triton where few channels leave nothing between the maps and their sums to memory."""

from typing import Any

import pytest
import torch
from seqca.kernels import cross_attention
from seqca.kernels.cross_attention import stacks
from seqca.kernels.cross_attention.groups import BranchGroup
from seqca.kernels.launch import record
from seqca.kernels.predictions import tensors
from torch import Generator, Tensor

from seqca.ops import use_backend
from seqca.ops.samples.cross_attention import exchange_sample
from seqca.ops.shared.branches import flattened
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.shared.sample import Sample, normal
from seqca.ops.verification.judge import cotangents, evaluate, judge, rounded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CROSS = OPERATORS["cross_attention"]


def exchange(channels: int, dtype: torch.dtype, device: str = DEVICE) -> Sample:
    """Between two tasks, of maps of three tiles each."""
    return rounded(exchange_sample(2, (9, 10), channels, Generator().manual_seed(0)), dtype, device)


def forward_of(sample: Sample) -> tuple[list[Tensor], Tensor, Tensor]:
    """Attended maps, means and variances of all layers one after the other."""
    a: dict[str, Any] = sample.arguments
    lists = [[x.detach() for x in a[name]] for name in ("maps", "weights", "scales", "shifts")]
    structure = flattened(a["branches"]), flattened(a["pairs"])
    attended, means, variances, *_ = cross_attention.forward(*lists, *structure, [], [], a["norm_eps"], 1e-12, "")
    return attended, means, variances


@pytest.mark.parametrize(
    ("channels", "dtype", "fused"),
    [(36, torch.float16, True), (63, torch.float16, True), (64, torch.float16, False), (36, torch.float32, False)],
)
def test_few_channels_in_half_precision_are_written_once_as_maps_and_once_as_outputs(
    channels: int, dtype: torch.dtype, fused: bool
) -> None:
    sample = exchange(channels, dtype, "meta")
    maps = [x.new_empty(8, channels, 120, 160) for x in sample.arguments["maps"]]
    with record() as launches:
        forward_of(sample._replace(arguments=sample.arguments | {"maps": maps}))
    largest = max(x.nbytes for launch in launches for x in tensors(launch.arguments.values()))
    rows = sum(x.nbytes for x in maps) // channels * stacks.padded(channels)
    assert (largest <= rows) == fused


@pytest.mark.parametrize("programs", [1, 10**6], ids=["one program", "a program for each tile"])
def test_sums_over_tokens_are_shared_out_between_programs(
    programs: int, monkeypatch: pytest.MonkeyPatch, poison: None
) -> None:
    monkeypatch.setattr(stacks, "PROGRAMS", programs)
    sample = exchange(6, torch.float16)
    gradients = cotangents(CROSS, sample, Generator().manual_seed(1))
    with use_backend("triton"):
        results = evaluate(CROSS.function, sample, gradients)
    for verdict in judge(CROSS, sample, gradients, results):
        assert verdict.ok, str(verdict)


def test_statistics_are_of_the_hidden_layers_that_backward_makes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden layers have means of a hundred deviations, which cancel where squares are summed as they are."""
    sample = exchange(18, torch.float16)
    for i in (0, 3):
        sample.arguments["shifts"][i].data += 100
    _, *fused = forward_of(sample)
    monkeypatch.setattr(BranchGroup, "fused", False)
    _, *expected = forward_of(sample)
    for x, y in zip(fused, expected, strict=True):
        assert ((x - y).abs() <= 2e-5 * y.abs().clamp(min=y.abs().median())).all()


def test_moments_of_float32_maps_tell_a_millionth_of_the_variance() -> None:
    """Also where the first tokens, by which a map is centred, are unlike the others."""
    g = Generator().manual_seed(0)
    common, seen = (normal(1, 1, 12, 25, generator=g) for _ in range(2))
    common[..., 6:, :] += 3
    x = torch.cat([1000 * common, 1000 * common + seen], 1).to(DEVICE, torch.float32)
    covariance = stacks.Stack([x]).moments()[0, 1:]
    found = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    expected = (x[:, 1] - x[:, 0]).double().var(correction=0)
    assert abs(found / expected - 1) < 1e-4
