"""Prediction from several threads, and beside training: none sees a mode that another one needs."""

import copy
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from types import MethodType

import pytest
import torch
from torch import nn

from seqca.models import SequentialCrossAttentionNet
from seqca.models.evaluation import evaluation_view


@pytest.fixture
def net() -> SequentialCrossAttentionNet:
    torch.manual_seed(0)
    return SequentialCrossAttentionNet({"semseg": 3, "depth": 1})


def test_four_threads_predict_what_one_does_on_a_network_in_training_mode(net):
    images = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    state = copy.deepcopy(net.state_dict())
    expected = [net.predict(image) for image in images]
    together = threading.Barrier(4)

    def predict(image: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        together.wait()
        return [net.predict(image) for _ in range(2)]

    with ThreadPoolExecutor(4) as pool:
        for one, several in zip(expected, pool.map(predict, images), strict=True):
            assert all(torch.equal(found[task], one[task]) for found in several for task in one)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_prediction_beside_a_thread_that_switches_modes_is_prediction_alone(net):
    image = torch.randn(1, 3, 32, 32)
    expected = net.predict(image)
    end = threading.Event()

    def switch() -> None:
        for mode in itertools.cycle([True, False]):
            net.train(mode)
            if end.is_set():
                return

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        found = [net.predict(image) for _ in range(2)]
    finally:
        end.set()
        thread.join()
    assert all(torch.equal(one[task], expected[task]) for one in found for task in expected)


def test_a_step_of_training_during_which_others_predict_is_the_step_alone(net):
    image = torch.randn(2, 3, 32, 32)
    other = copy.deepcopy(net)

    # A prediction in the middle of the step, at the moment when a switch of modes would do the most harm.
    def predict(module: nn.Module, *_: object) -> None:
        if module.training:
            net.predict(image)

    handle = net.features[2].register_forward_hook(predict)
    for network in (net, other):
        torch.manual_seed(1)
        output = network(image)
        sum(x.square().mean() for x in output.final.values()).backward()
    handle.remove()
    for (name, one), two in zip(net.named_parameters(), other.parameters(), strict=True):
        assert one.grad is two.grad is None or torch.equal(one.grad, two.grad), name
    for (name, one), two in zip(net.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two), name


def test_a_view_shares_every_tensor_and_sees_what_becomes_of_them():
    shared = nn.BatchNorm1d(2)
    network = nn.Sequential(nn.Dropout(0.5), shared, nn.Sequential(shared))
    view = evaluation_view(network)
    assert network.training and not any(module.training for module in view.modules())
    assert view[1] is view[2][0], "a module in two places stays one"
    assert [id(x) for x in view.parameters()] == [id(x) for x in network.parameters()]
    network.double()  # new tensors in the same modules
    shared.running_mean = torch.tensor([3.0, 5.0], dtype=torch.float64)
    image = torch.randn(4, 2, dtype=torch.float64)
    assert torch.equal(view(image), copy.deepcopy(network).eval()(image))


def test_a_network_compiled_in_place_predicts_in_evaluation_mode_too():
    network = nn.Sequential(nn.Dropout(0.5))
    network.compile(backend="eager")
    assert torch.equal(evaluation_view(network)(torch.ones(1000)), torch.ones(1000))


@pytest.mark.parametrize("inside", [False, True])
def test_a_part_that_is_compiled_predicts_in_evaluation_mode_too(inside):
    network = nn.Sequential(nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)), nn.Identity())
    points = torch.randn(64, 3)
    expected, buffers = evaluation_view(network)(points), copy.deepcopy(list(network.buffers()))
    if inside:
        network[0][0] = torch.compile(network[0][0], backend="eager")
    network[0] = torch.compile(network[0], backend="eager")
    assert torch.equal(evaluation_view(network)(points), expected)
    assert all(torch.equal(one, two) for one, two in zip(network.buffers(), buffers, strict=True))


def test_a_forward_of_an_objects_own_is_that_of_the_view():
    network = nn.Sequential(nn.Dropout(0.5))
    network.forward = MethodType(nn.Sequential.forward, network)
    assert torch.equal(evaluation_view(network)(torch.ones(1000)), torch.ones(1000))
