"""Basic blocks: the numbers of their layers one by one, what they keep, and when they call the layers themselves."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from benchmarks.harness.quantities import kept_bytes
from seqca.nn import BasicBlock, SqueezeExcitation
from seqca.nn.blocks import excitations
from seqca.ops import use_backend
from seqca.ops.shared.dispatch import record_calls
from tests.processes import in_two_processes


def double_block(in_channels: int = 6, out_channels: int = 6) -> BasicBlock:
    """In float64, with norms that are not those of the beginning."""
    torch.manual_seed(0)
    block = BasicBlock(in_channels, out_channels).double()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return block


def one_by_one(block: BasicBlock, x: Tensor) -> Tensor:
    """By its layers."""
    return F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + block.shortcut(x))


def results_of(block: BasicBlock, output: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers."""
    names, parameters = zip(*block.named_parameters(), strict=True)
    gradients = torch.autograd.grad(output.square().sum(), [x, *parameters])
    return {"output": output, **dict(zip(["x", *names], gradients, strict=True)), **dict(block.named_buffers())}


@pytest.mark.parametrize("channels", [(6, 6), (5, 6)], ids=["identity", "projection"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_block_is_its_layers_one_by_one_with_running_statistics(channels: tuple[int, int], training: bool) -> None:
    x = torch.randn(2, channels[0], 8, 9, dtype=torch.float64, requires_grad=True)
    fused, plain = (double_block(*channels).train(training) for _ in range(2))
    found, expected = results_of(fused, fused(x), x), results_of(plain, one_by_one(plain, x), x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_several_maps_are_read_as_their_concatenation() -> None:
    maps = [torch.randn(2, c, 8, 9, dtype=torch.float64) for c in (2, 3)]
    torch.testing.assert_close(double_block(5, 6)(maps), double_block(5, 6)(torch.cat(maps, 1)))
    torch.testing.assert_close(double_block(5, 5)(maps), double_block(5, 5)(torch.cat(maps, 1)))


def test_a_block_keeps_what_it_reads_and_the_outputs_of_its_large_convolutions() -> None:
    block, x = BasicBlock(16, 20), torch.randn(2, 16, 24, 32)
    with use_backend("aten"):
        kept = kept_bytes(lambda: block(x), [*block.parameters(), *block.buffers()])
    assert kept <= (16 + 2 * 20) * x[:, 0].nbytes + 4 * 3 * 20 * 4


def calls_of(block: BasicBlock, x: Tensor) -> int:
    """Of the operator, in a forward pass that is compared with that of the layers."""
    with record_calls() as calls:
        found = block(x)
    torch.testing.assert_close(found, one_by_one(block, x))
    return len(calls)


def test_hooks_on_a_layer_are_run() -> None:
    block, x, seen = double_block(), torch.randn(2, 6, 8, 9, dtype=torch.float64), []
    assert calls_of(block, x) == 1
    handle = block.conv2.register_forward_hook(lambda *_: seen.append(1))
    assert calls_of(block, x) == 0 and len(seen) == 2
    handle.remove()
    assert calls_of(block, x) == 1


def test_one_norm_may_be_frozen() -> None:
    block = double_block()
    block.bn1.eval()
    before = block.bn1.running_mean.clone()
    assert calls_of(block, torch.randn(2, 6, 8, 9, dtype=torch.float64)) == 0
    assert torch.equal(block.bn1.running_mean, before)


def test_a_norm_without_running_statistics_takes_those_of_the_batch() -> None:
    block = double_block().eval()
    for name in ("bn1", "bn2"):
        setattr(block, name, nn.BatchNorm2d(6, track_running_stats=False).double().eval())
    assert calls_of(block, torch.randn(2, 6, 8, 9, dtype=torch.float64)) == 1


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([], "x: got no map"),
        ([torch.zeros(2, 3, 8, 8), torch.zeros(2, 2, 8, 8)], "x: got 5 channels in all, expected 6"),
        ([torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 4)], r"x\[1\]: got the size \(8, 4\), expected \(8, 8\)"),
        ([torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8)], r"x\[1\]: got 1 images, expected 2"),
        ([torch.zeros(3, 8, 8)], r"x\[0\]: got shape \(3, 8, 8\)"),
    ],
)
def test_maps_that_do_not_fit_are_refused(maps: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BasicBlock(6, 6)(maps)


def of_images(images: slice, synchronised: bool) -> dict[str, Tensor]:
    """Output, gradients and buffers of a block on some of three images."""
    block = double_block(5, 6)
    if synchronised:
        block = nn.SyncBatchNorm.convert_sync_batchnorm(block)
    generator = Generator().manual_seed(0)
    x = torch.randn(3, 5, 8, 9, generator=generator, dtype=torch.float64)[images].requires_grad_()
    return {name: value.detach() for name, value in results_of(block, block(x), x).items()}


def of_process(rank: int) -> dict[str, Tensor]:
    """Two images on the first process, one on the second."""
    return of_images((slice(0, 2), slice(2, 3))[rank], synchronised=dist.is_initialized())


def test_two_processes_with_synchronised_batch_norm_are_as_one(tmp_path: Path) -> None:
    parts, whole = in_two_processes(tmp_path, of_process), of_images(slice(0, 3), synchronised=False)
    for name, expected in whole.items():
        shares = [part[name] for part in parts]
        if name in ("output", "x"):
            found = torch.cat(shares)
        elif "running" in name or "tracked" in name:
            assert torch.equal(*shares)
            found = shares[0]
        else:
            found = shares[0] + shares[1]
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}")


def test_excitations_of_one_map_are_those_of_each_module() -> None:
    torch.manual_seed(0)
    modules = [SqueezeExcitation(32).double() for _ in range(3)]
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64, requires_grad=True)
    parameters = [x, *(p for module in modules for p in module.parameters())]
    outputs = [x * scale for scale in excitations(modules, x)], [module(x) for module in modules]
    gradients = [torch.autograd.grad(torch.stack(each).square().sum(), parameters) for each in outputs]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)
