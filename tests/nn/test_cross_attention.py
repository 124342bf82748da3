"""What cross attention keeps for backward, what it does with its batch norms, and how the exchange reads its maps."""

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Generator, Tensor, nn

from benchmarks.harness.quantities import kept_bytes
from seqca.nn import CrossAttention, CrossScaleAttention, CrossTaskAttention
from seqca.nn.batch_norm import update_running_statistics, updates_together
from seqca.nn.cross_attention import Reduction
from seqca.nn.cross_scale import attend_across_scales
from seqca.ops import use_backend
from tests.processes import in_two_processes

TASKS = ("semseg", "depth", "normals")
CHANNELS = (4, 6, 8)
IMAGES = (slice(0, 2), slice(2, 3))
"""Of each process."""


def test_cross_attention_keeps_its_maps_and_nothing_else_that_grows_with_them() -> None:
    module = CrossAttention(6)

    def kept(height: int) -> int:
        target, source = torch.randn(2, 6, height, 10), torch.randn(2, 6, 8, 10)
        with use_backend("aten"):
            return kept_bytes(lambda: module(target, source), [*module.parameters(), *module.buffers()])

    assert kept(16) - kept(8) == 4 * 2 * 6 * 8 * 10


def test_a_map_that_is_read_several_times_is_one_product_with_the_sum_of_the_weights() -> None:
    block = Reduction(6, pairs=3).double()
    target, *attended = torch.randn(4, 2, 6, 5, 7, dtype=torch.float64)
    repeated = torch.cat([x for a in attended for x in (target, a)], 1)
    convolution, norm = block.shortcut
    expected = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(repeated))))) + norm(convolution(repeated)))
    torch.testing.assert_close(block(torch.cat([target, *attended], 1)), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hooked", [False, True])
def test_the_block_of_several_targets_is_that_of_each(training: bool, hooked: bool) -> None:
    torch.manual_seed(0)
    together = Reduction(6, pairs=2).double()
    for norm in (together.bn1, together.bn2, together.shortcut[1]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    one_by_one = copy.deepcopy(together.train(training))
    if hooked:
        together.bn2.register_forward_hook(lambda *_: None)
    scales = (1, 3, 0.25)
    maps = [
        (scale * torch.randn(2, c, 5, 7, dtype=torch.float64)).requires_grad_() for scale in scales for c in (6, 12)
    ]
    found = together(maps, targets=3)
    expected = torch.cat([one_by_one(maps[i : i + 2]) for i in (0, 2, 4)])
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(found, expected)
    for x, y in zip(
        torch.autograd.grad(found, [*maps, *together.parameters()], gradient),
        torch.autograd.grad(expected, [*maps, *one_by_one.parameters()], gradient),
        strict=True,
    ):
        torch.testing.assert_close(x, y)
    for (name, x), y in zip(together.named_buffers(), one_by_one.buffers(), strict=True):
        torch.testing.assert_close(x, y, msg=name)
    assert together.bn1.num_batches_tracked == 3 * training


@pytest.mark.parametrize("training", [True, False])
def test_an_exchange_between_tasks_reduces_all_targets_in_one_call(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    together = CrossTaskAttention(TASKS, 6).double().train(training)
    one_by_one = copy.deepcopy(together)
    features = {task: torch.randn(2, 6, 5, 7, dtype=torch.float64).requires_grad_() for task in TASKS}
    calls = []

    def each(block: Reduction, x: list[Tensor], targets: int) -> Tensor:
        calls.append(targets)
        return torch.cat([reduce(block, x[i : i + 2]) for i in range(0, len(x), 2)])

    reduce = Reduction.forward
    found = together(features)
    monkeypatch.setattr(Reduction, "forward", each)
    expected = one_by_one(features)
    assert calls == [3] and list(found) == list(expected)
    of_found, of_expected = (
        torch.autograd.grad(sum((x.square().sum() for x in outputs.values()), torch.zeros(())), inputs)
        for outputs, inputs in (
            (found, [*features.values(), *together.parameters()]),
            (expected, [*features.values(), *one_by_one.parameters()]),
        )
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(list(of_found), list(of_expected))
    torch.testing.assert_close(together.state_dict(), one_by_one.state_dict())


def test_batch_norms_of_one_exchange_in_several_modes_are_refused() -> None:
    module = CrossAttention(6)
    module.key.bn.eval()
    with pytest.raises(ValueError, match="batch norms of one exchange: got some in training and some in evaluation"):
        module(torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4))


def test_scales_of_several_tasks_exchange_as_those_of_each_task_alone() -> None:
    generator = Generator().manual_seed(0)
    modules = [CrossScaleAttention(CHANNELS).double() for _ in range(2)]
    features = [
        [torch.randn(2, c, 8 >> k, 12 >> k, generator=generator, dtype=torch.float64) for k, c in enumerate(CHANNELS)]
        for _ in modules
    ]
    together = attend_across_scales(modules, features)
    for module, own, attended in zip(modules, features, together, strict=True):
        for expected, found in zip(module(own), attended, strict=True):
            torch.testing.assert_close(found, expected)


def test_a_task_in_evaluation_mode_exchanges_beside_one_in_training() -> None:
    modules = [CrossScaleAttention(CHANNELS).double(), CrossScaleAttention(CHANNELS).double().eval()]
    features = [
        [torch.randn(2, c, 8 >> k, 12 >> k, dtype=torch.float64) for k, c in enumerate(CHANNELS)] for _ in modules
    ]
    frozen = {name: x.clone() for name, x in modules[1].named_buffers()}
    together = attend_across_scales(modules, features)
    for attended, module, own in zip(together, modules, features, strict=True):
        torch.testing.assert_close(attended, module(own))
    assert all(torch.equal(x, frozen[name]) for name, x in modules[1].named_buffers())


def test_a_batch_norm_counts_the_sources_that_share_it() -> None:
    module = CrossScaleAttention(CHANNELS)
    module([torch.randn(2, c, 8 >> k, 12 >> k) for k, c in enumerate(CHANNELS)])
    counts = {name: int(x) for name, x in module.named_buffers() if name.endswith("num_batches_tracked")}
    finest = {name: n for name, n in counts.items() if name.startswith("attention.0")}
    assert len(finest) == 5 and set(finest.values()) == {2}
    assert {n for name, n in counts.items() if name not in finest} == {1}


def module_of(name: str) -> nn.Module:
    if name == "scales":
        return CrossScaleAttention(CHANNELS)
    return CrossTaskAttention(TASKS, 6)


def results_of(name: str, images: slice, synchronised: bool) -> dict[str, Tensor]:
    """Outputs, gradients and buffers after a pass in training over some of three images."""
    generator = Generator().manual_seed(0)
    module = module_of(name).double()
    for parameter in module.parameters():
        parameter.data = 0.5 + torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if synchronised:
        module = TorchSyncBatchNorm().apply(module)  # what `sync_batchnorm=True` calls, and torch's own conversion
    shapes = [(6, 6, 8)] * 3 if name == "tasks" else [(c, 8 >> k, 12 >> k) for k, c in enumerate(CHANNELS)]
    maps = [
        torch.randn(3, *shape, generator=generator, dtype=torch.float64)[images].requires_grad_() for shape in shapes
    ]
    if name == "tasks":
        outputs = list(module(dict(zip(TASKS, maps, strict=True))).values())
    else:
        outputs = [x for own in module(maps) for x in own]
    gradients = [torch.randn(3, *x.shape[1:], generator=generator, dtype=torch.float64)[images] for x in outputs]
    torch.autograd.backward(outputs, gradients)
    return {
        **{f"output {i}": x.detach() for i, x in enumerate(outputs)},
        **{f"gradient of map {i}": x.grad for i, x in enumerate(maps)},
        **{f"gradient of {key}": x.grad for key, x in module.named_parameters()},
        **dict(module.named_buffers()),
    }


def results_of_process(rank: int, name: str) -> dict[str, Tensor]:
    return results_of(name, IMAGES[rank], synchronised=True)


@pytest.mark.parametrize("name", ["tasks", "scales"])
def test_two_processes_with_synchronised_batch_norm_are_as_one(name: str, tmp_path: Path) -> None:
    first, second = in_two_processes(tmp_path, results_of_process, name)
    whole = results_of(name, slice(0, 3), synchronised=False)
    assert first.keys() == second.keys() == whole.keys()
    largest = max(x.abs().max() for what, x in whole.items() if what.startswith("gradient of") and "map" not in what)
    for what, expected in whole.items():
        if what.startswith(("output", "gradient of map")):
            found = torch.cat([first[what], second[what]])
        elif what.startswith("gradient"):
            found = first[what] + second[what]
        else:
            assert torch.equal(first[what], second[what]), what
            found = first[what]
        # A projection's shift is taken away by the batch norms behind it: its gradient is 0 but for rounding.
        scale = largest if what.startswith("gradient") and "projections" in what else expected.abs().max()
        assert (found - expected).abs().max() <= 1e-10 * scale, what


def test_statistics_are_updated_once_for_each_use_of_a_layer_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    together, at_the_end, one_by_one = (copy.deepcopy(x) for x in [CrossScaleAttention(CHANNELS)] * 3)
    maps = [torch.randn(2, c, 8 >> k, 8 >> k) for k, c in enumerate(CHANNELS)]
    together(maps)
    with updates_together():
        at_the_end(maps)
        assert at_the_end.attention[0].query.bn.num_batches_tracked == 0

    def update(*lists: Any) -> None:
        for entry in zip(*lists, strict=True):
            update_running_statistics(*([x] for x in entry))

    monkeypatch.setattr(import_module("seqca.nn.cross_attention"), "update_running_statistics", update)
    one_by_one(maps)
    expected = one_by_one.state_dict()
    for module in (together, at_the_end):
        for name, value in module.state_dict().items():
            assert torch.equal(value, expected[name]), name
    uses = [int(expected[f"{name}.bn.num_batches_tracked"]) for name in ("attention.0.query", "projections.0.0")]
    assert uses == [2, 1]


def test_a_forward_pass_that_fails_updates_no_statistics() -> None:
    module = CrossScaleAttention(CHANNELS)
    maps = [torch.randn(2, c, 8 >> k, 8 >> k) for k, c in enumerate(CHANNELS)]
    with pytest.raises(ZeroDivisionError), updates_together():
        module(maps)
        _ = 1 / 0
    assert all(x == 0 for name, x in module.named_buffers() if name.endswith("tracked"))
    module(maps)
    assert all(x > 0 for name, x in module.named_buffers() if name.endswith("tracked"))
