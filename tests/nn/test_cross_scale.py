"""Aggregation under synchronised batch norm, which several processes share."""

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from seqca.nn import FeatureAggregation
from tests.processes import in_two_processes

CHANNELS = (4, 6, 8)
IMAGES = (slice(0, 2), slice(2, 3))
"""Of each process."""


def results_of(images: slice, attended: bool, synchronised: bool) -> dict[str, Tensor]:
    """Output, gradients and buffers after a pass in training over some of three images."""
    g = Generator().manual_seed(0)
    head = FeatureAggregation(CHANNELS, 5, attended).double()
    for parameter in head.parameters():
        parameter.data = 0.5 + torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    if synchronised:
        head = nn.SyncBatchNorm.convert_sync_batchnorm(head)
    sizes = ((8, 12), (4, 6), (2, 3))
    counts = (3, 2, 1) if attended else (1, 1, 1)
    maps = [
        [torch.randn(3, c, *size, generator=g, dtype=torch.float64)[images].requires_grad_() for _ in range(n)]
        for c, size, n in zip(CHANNELS, sizes, counts, strict=True)
    ]
    of_output = torch.randn(3, 5, *sizes[0], generator=g, dtype=torch.float64)[images]
    output = head([own for own, *_ in maps], [gathered for _, *gathered in maps[:-1]] if attended else None)
    output.backward(of_output)
    return {
        "output": output.detach(),
        **{f"gradient of map {i}": x.grad for i, x in enumerate(x for scale in maps for x in scale)},
        **{f"gradient of {name}": x.grad for name, x in head.named_parameters()},
        **dict(head.named_buffers()),
    }


def results_of_process(rank: int, attended: bool) -> dict[str, Tensor]:
    return results_of(IMAGES[rank], attended, synchronised=True)


def joined(what: str, parts: list[Tensor]) -> Tensor:
    """Images side by side, each process's share of a parameter's gradient added, the statistics that all have."""
    if what == "output" or what.startswith("gradient of map"):
        return torch.cat(parts)
    if what.startswith("gradient"):
        return torch.stack(parts).sum(0)
    assert torch.equal(*parts), what
    return parts[0]


@pytest.mark.parametrize("attended", [True, False], ids=["attended", "features alone"])
def test_two_processes_with_synchronised_batch_norm_are_as_one(attended: bool, tmp_path: Path) -> None:
    first, second = in_two_processes(tmp_path, results_of_process, attended)
    whole = results_of(slice(0, 3), attended, synchronised=False)
    assert first.keys() == second.keys() == whole.keys() >= {"bn.running_mean", "bn.num_batches_tracked"}
    for what, expected in whole.items():
        # The gradient of a bias in front of the batch norm is 0.
        scale = whole["gradient of bn.bias" if what == "gradient of conv.bias" else what].abs().max()
        assert (joined(what, [first[what], second[what]]) - expected).abs().max() <= 1e-12 * scale, what
