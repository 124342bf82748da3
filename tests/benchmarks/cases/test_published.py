"""The baseline of the network's cases is the published network: by golden numbers, and with the network's weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cases.labels import labels
from benchmarks.cases.network import NetworkCase
from benchmarks.cases.published.network import (
    CrossAttention,
    CrossTaskAttention,
    FeaturePropagation,
    Head,
    PublishedNetwork,
    in_merged_form,
)
from benchmarks.cases.published.objective import published_objective
from benchmarks.cases.published.window_attention import SelfAttention, with_fused_attention
from benchmarks.cases.shapes import NYUD_TASKS, Dataset, case_set, nyud
from benchmarks.harness.case import Provider
from benchmarks.harness.execution import Execution
from benchmarks.harness.quantities import kept_bytes, operators_run
from benchmarks.harness.run import checked
from seqca import use_backend
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet, to_published_state
from tests.golden import GOLDEN, assert_published_predictions, close, load
from tests.golden.published_state import published_state
from tests.planted import drop_gradient

TASKS = ("semseg", "depth", "normals")


@pytest.mark.parametrize("count", [2, 3])
def test_a_published_checkpoint_fits_and_gives_the_published_numbers(count: int) -> None:
    golden = load(f"net_{count}tasks")
    net = PublishedNetwork({task: NYUD_TASKS[task] for task in TASKS[:count]}).eval()
    net.load_state_dict(published_state(GOLDEN / f"published_keys_{count}tasks.json"))
    with torch.no_grad():
        output = net(golden["image"])
    assert_published_predictions(output, golden)


def pair(module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"o": module(inputs["target"], inputs["source"])}


BLOCKS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Any], Any]]] = {
    "cross_attention": (lambda: CrossAttention(12), pair),
    "cross_attention_two_sizes": (lambda: CrossAttention(12), pair),
    "cross_task_attention": (lambda: CrossTaskAttention(TASKS, 8), lambda module, inputs: module(inputs)),
    "window_self_attention": (lambda: SelfAttention(18, 2, 6), lambda module, inputs: {"o": module(inputs["x"])}),
    "window_self_attention, fused": (
        lambda: SelfAttention(18, 2, 6),
        lambda module, inputs: with_fused_attention(module, lambda x: {"o": module(x)})(x=inputs["x"]),
    ),
    "feature_propagation": (lambda: FeaturePropagation(TASKS, 16), lambda module, inputs: module(inputs)),
    "cross_scale_head": (
        lambda: Head([4, 8, 16, 32], 5),
        lambda module, inputs: {"o": module([inputs[f"scale_{k}"] for k in range(4)])},
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_gives_the_published_numbers_and_gradients(name: str) -> None:
    golden, (build, run) = load(name.split(", ")[0]), BLOCKS[name]

    def of(group: str) -> dict[str, Tensor]:
        return {key.partition("/")[2]: value for key, value in golden.items() if key.startswith(f"{group}/")}

    module = build().train()
    module.load_state_dict(of("state"))
    inputs = {key: value.clone().requires_grad_() for key, value in of("in").items()}
    outputs, expected = run(module, inputs), of("out")
    assert outputs.keys() == expected.keys()
    torch.autograd.backward([outputs[key] for key in expected], [of("grad_out")[key] for key in expected])
    found = {f"out/{key}": value for key, value in outputs.items()}
    found |= {f"grad_in/{key}": value.grad for key, value in inputs.items()}
    found |= {f"grad/{key}": value.grad for key, value in module.named_parameters() if value.grad is not None}
    found |= {f"after/{key}": value for key, value in module.named_buffers() if "running" in key}
    module.eval()
    with torch.no_grad():
        found |= {f"eval/{key}": value for key, value in run(module, inputs).items()}
    assert found.keys() >= {key for key in golden if key.startswith(("out/", "grad_in/", "grad/", "eval/"))}
    largest = max(float(gradient.abs().max()) for gradient in of("grad").values())
    for key, value in found.items():
        # A bias whose only reader subtracts the mean again has no gradient but rounding.
        vanishing = key == "grad/last_layer.0.bias" or (key.startswith("grad/upsample") and key.endswith("1.bias"))
        close(value, golden[key], key, scale=largest if vanishing else None)


def test_with_the_networks_weights_loss_and_every_gradient_are_the_networks() -> None:
    torch.manual_seed(0)
    tasks = {"semseg": 5, "normals": 3, "edge": 1, "sal": 1}
    data = Dataset("small", 2, 64, 96, tasks)
    net = SequentialCrossAttentionNet(tasks, drop_path=0.0).double().train()
    twin = PublishedNetwork(tasks).double().train()
    twin.load_state_dict(to_published_state(net.state_dict()))
    for module in twin.modules():
        if isinstance(module, nn.Softplus):
            module.threshold = 40  # at torch's own 20 softplus(x) = x is off by 2e-9, which float64 would show
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(data.batch, 3, data.height, data.width, generator=generator, dtype=torch.float64)
    targets = labels(data, generator)
    with use_backend("reference"):
        expected = MultiTaskLoss(tasks)(net(images), targets).total
        expected.backward()
    loss = published_objective(twin(images), targets)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = {key: p.grad for key, p in twin.named_parameters() if p.grad is not None}
    keys = [key for key, _ in net.named_parameters()]
    largest = max(float(p.grad.abs().max()) for p in net.parameters())
    for key, merged in zip(keys, in_merged_form(gradients, keys, list(tasks)), strict=True):
        own = net.get_parameter(key).grad
        error = float((merged - own).abs().max())
        assert error <= 1e-9 * float(own.abs().max()) + 1e-12 * largest, key


def small_case(direction: str, dtype: str = "fp32", height: int = 32) -> tuple[NetworkCase, Provider, Provider]:
    """A case on small images, its baseline and the reference."""
    data = Dataset("small", 2, height, 64, {"semseg": 5, "depth": 1})
    case = NetworkCase.of(data, dtype, direction, case_set("quick", "cpu"))
    published, reference = case.providers().available[:2]
    assert (published.name, reference.name) == (case.baseline, "reference")
    return case, published, reference


def test_it_passes_the_check_of_the_benchmarks_and_a_wrong_prediction_does_not() -> None:
    case, published, _ = small_case("forward")
    expected = case.expected(published, torch.Generator().manual_seed(0))
    check = checked(case, published, expected)[0]["check"]
    assert check["ok"], check["what"]

    def wrong(results: list[Tensor]) -> list[Tensor]:
        *others, last = results
        return [*others, last * 1.01]

    assert not checked(case, replace(published, arranged=wrong), expected)[0]["check"]["ok"]


def test_a_training_step_without_the_gradient_of_queries_fails_even_in_half_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is a thousandth of what passes through the network."""
    case, published, reference = small_case("both", "bf16", height=64)
    expected = case.expected(published, torch.Generator().manual_seed(0))
    aten = replace(reference, name="aten", backend="aten")
    for right in (published, aten):
        check = checked(case, right, expected)[0]["check"]
        assert check["ok"], check["what"]
    drop_gradient("queries", monkeypatch)
    check = checked(case, aten, expected)[0]["check"]
    assert not check["ok"]
    assert "query" in check["what"]


def test_its_gradients_are_judged_in_the_order_of_the_networks() -> None:
    case, published, reference = small_case("both")
    inputs = case.inputs(torch.Generator().manual_seed(0))
    results = [Execution(provider, "both").evaluate(inputs) for provider in (published, reference)]
    shapes = [[x.shape for x in of_one] for of_one in results]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 1 + len(inputs.leaves)


def test_it_counts_what_is_published_and_the_network_keeps_less() -> None:
    data = nyud(1)._replace(height=96, width=128)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, data.height, data.width, generator=generator)
    targets = labels(data, generator)

    def kept(net: nn.Module, objective: Callable[..., Tensor]) -> int:
        return kept_bytes(lambda: objective(net(images), targets), [*net.parameters(), *net.buffers()])

    published, criterion = PublishedNetwork(data.tasks).train(), MultiTaskLoss(data.tasks)
    leaves = [parameter for parameter in published.parameters() if parameter.requires_grad]
    of_published = kept(published, published_objective)
    # Of 480×640: 3,577 MB, 25 times 143 MB; windows that are filled up weigh more on small maps.
    assert of_published == pytest.approx(152.6e6, rel=0.01)
    run = operators_run(lambda: torch.autograd.grad(published_objective(published(images), targets), leaves))
    assert run == pytest.approx(9150, rel=0.01)
    # As on large maps: for this few tokens the reference of `cross_attention` would be chosen.
    with use_backend("aten"):
        of_network = kept(SequentialCrossAttentionNet(data.tasks, drop_path=0.0), lambda *x: criterion(*x).total)
    assert of_network <= 0.6 * of_published


def test_the_gradient_of_a_single_image_is_the_derivative() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(12).double()
    target, source, gradient = torch.randn(3, 1, 12, 6, 8, dtype=torch.float64)
    weight = attention.key_project[0].conv.weight
    direction, step = torch.randn_like(weight), 1e-6

    def value(t: float) -> Tensor:
        moved = {"key_project.0.conv.weight": weight + t * direction}
        return (torch.func.functional_call(attention, moved, (target, source)) * gradient).sum()

    (found,) = torch.autograd.grad((attention(target, source) * gradient).sum(), weight)
    with torch.no_grad():
        expected = (value(step) - value(-step)) / (2 * step)
    torch.testing.assert_close((found * direction).sum(), expected, rtol=1e-6, atol=0)
