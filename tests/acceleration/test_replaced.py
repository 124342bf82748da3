"""A replaced module lives on as any module does: copied, pickled, replicated, in parallel."""

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import seqca
from seqca.acceleration import LazyMap, restore
from seqca.acceleration.replaced import is_replaced, original_class, replaced_class

from .heads import NETWORK, OBJECTIVE, FusedHead, Network, Objective, UpsamplingHead, head, sample
from .teaching import taught

ROOT = Path(__file__).parents[2]


@pytest.fixture
def net() -> Iterator[Network]:
    """With both heads replaced."""
    with taught((head(), UpsamplingHead)):
        network = Network()
        network.dropout.eval()
        seqca.accelerate(network)
        yield network


def test_the_class_is_a_subclass_of_what_it_replaces_and_made_once(net: Network) -> None:
    depth, normals = net.heads.values()
    assert type(depth) is type(normals) is replaced_class(FusedHead, UpsamplingHead)
    assert isinstance(depth, UpsamplingHead) and original_class(depth) is UpsamplingHead
    assert type(depth).__name__ == "UpsamplingHead" and repr(net) == repr(Network().train(net.training))


def test_copies_are_replaced_and_have_parameters_of_their_own(net: Network) -> None:
    images, _ = sample()
    copied = copy.deepcopy(net)
    assert all(map(is_replaced, copied.heads.values()))
    expected = net(images)["depth"]
    with torch.no_grad():
        net.heads["depth"].layers[3].weight.zero_()
    torch.testing.assert_close(copied(images)["depth"], expected)


def test_copies_and_what_was_unpickled_are_restored(net: Network) -> None:
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        restore(other)
        assert all(type(each) is UpsamplingHead for each in other.heads.values())
    assert all(map(is_replaced, net.heads.values()))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_finds_the_class_again(net: Network, protocol: int) -> None:
    read = pickle.loads(pickle.dumps(net.heads["depth"], protocol))
    assert type(read) is type(net.heads["depth"])


def test_a_fresh_process_reads_a_saved_module(net: Network, tmp_path: Path) -> None:
    images, _ = sample()
    net.eval()
    torch.save((net, images, net(images)["depth"]), tmp_path / "net.pt")
    code = """
import sys, torch
net, images, expected = torch.load(sys.argv[1], weights_only=False)
assert type(net.heads["depth"]).__mro__[1].__name__ == "FusedHead"
torch.testing.assert_close(net(images)["depth"], expected)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "net.pt")], check=True, cwd=ROOT)


def test_a_state_dict_is_read_by_the_model_as_it_was(net: Network) -> None:
    Network().load_state_dict(net.state_dict())
    assert list(net.state_dict()) == list(Network().state_dict())


def test_replicas_of_data_parallel_compute_with_parameters_of_their_own(net: Network) -> None:
    """What `replicate` does for each device, done for one."""
    module = net.heads["depth"]
    maps = [torch.randn(2, 6, 12, 16), torch.randn(2, 8, 6, 8)]

    def replica_of(original: nn.Module) -> nn.Module:
        replica = original._replicate_for_data_parallel()
        for name, child in original.named_children():
            setattr(replica, name, replica_of(child))
        for name, parameter in original.named_parameters(recurse=False):
            setattr(replica, name, parameter * 2)  # no leaf, as one that was broadcast
        return replica

    replica = replica_of(module)
    doubled = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter *= 2
    torch.testing.assert_close(replica(maps), doubled(maps))
    replica(maps).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_model_in_data_parallel_is_changed_inside() -> None:
    with taught((head(), UpsamplingHead)):
        wrapped = DataParallel(Network())
        report = seqca.accelerate(wrapped, Objective(), sample=sample())
    assert [each.path for each in report.replaced] == ["model.heads.depth", "model.heads.normals"]
    assert is_replaced(wrapped.module.heads["depth"])


def test_gradients_under_distributed_data_parallel_are_the_same(net: Network, tmp_path: Path) -> None:
    images, targets = sample()
    alone = copy.deepcopy(net)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(net)
        Objective()(wrapped(images), targets)["total"].backward()
    finally:
        dist.destroy_process_group()
    Objective()(alone(images), targets)["total"].backward()
    for (name, parameter), other in zip(net.named_parameters(), alone.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)


def test_lazy_predictions_reach_distributed_data_parallel_that_looks_for_unused_parameters(tmp_path: Path) -> None:
    (images, targets), alone = sample(), Network()
    alone.dropout.eval()
    net, criterion = copy.deepcopy(alone), Objective()
    with taught((NETWORK, Network), (OBJECTIVE, Objective), (head(), UpsamplingHead)):
        seqca.accelerate(net, criterion, outputs="lazy")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(net, find_unused_parameters=True)
        for _ in range(2):  # what the first pass leaves behind shows in the second
            wrapped.zero_grad()
            output = wrapped(images)
            criterion(output, targets)["total"].backward()
    finally:
        dist.destroy_process_group()
    assert all(isinstance(x, LazyMap) for x in output.values())
    Objective()(alone(images), targets)["total"].backward()
    for (name, parameter), other in zip(net.named_parameters(), alone.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)


def test_a_model_that_was_wrapped_and_accelerated_later_is_trained_as_before(net: Network) -> None:
    buffer = io.BytesIO()
    torch.save(net.double().state_dict(), buffer)
    buffer.seek(0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    old = Network().double()
    old.dropout.eval()
    old.load_state_dict(torch.load(buffer))
    old_optimizer = torch.optim.SGD(old.parameters(), 0.1)
    images, targets = sample()
    for network, optimiser in ((net, optimizer), (old, old_optimizer)):
        for _ in range(3):
            optimiser.zero_grad()
            Objective()(network(images.double()), targets)["total"].backward()
            optimiser.step()
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, old.state_dict()[key], msg=key)


def test_what_is_no_made_class_is_no_attribute() -> None:
    import seqca.acceleration.replaced as module

    with pytest.raises(AttributeError, match="'Head'"):
        _ = module.Head
