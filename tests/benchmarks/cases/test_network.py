"""The settings in which the network is measured: those that users try before they look for a faster one."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases.network import SDPA, NetworkCase
from benchmarks.cases.shapes import Dataset, case_set
from benchmarks.harness.case import Provider
from benchmarks.harness.execution import Execution, conditions_of
from benchmarks.harness.run import checked

SMALL = Dataset("small", 2, 32, 64, {"semseg": 5, "depth": 1})


def case(direction: str, device: str = "cpu", name: str = "full") -> NetworkCase:
    return NetworkCase.of(SMALL, "fp32", direction, case_set(name, device))


def provider(of: NetworkCase, name: str) -> Provider:
    (found,) = [one for one in of.providers().available if one.name == name]
    return found


class Layouts(TorchDispatchMode):
    """Of the weights of convolutions of more than a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.channels_last: set[bool] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default and args[1].shape[-1] > 1:
            self.channels_last.add(args[1].is_contiguous(memory_format=torch.channels_last))
        return function(*args, **(kwargs or {}))


def test_every_setting_computes_what_the_plain_network_does() -> None:
    of = case("forward")
    expected = of.expected(provider(of, "published"), torch.Generator().manual_seed(0))
    for name in (SDPA, *(f"{base}, channels-last" for base in ("published", "reference", "auto"))):
        check = checked(of, provider(of, name), expected)[0]["check"]
        assert check["ok"], f"{name}: {check['what']}"


def test_a_step_on_a_cpu_is_not_channels_last_and_that_is_said() -> None:
    available, unavailable = case("both").providers()
    assert not any("channels-last" in one.name for one in available)
    assert "float32" in unavailable["published, channels-last"]


def test_a_network_is_channels_last_where_its_name_says_so() -> None:
    of = case("forward")
    inputs = of.inputs(torch.Generator().manual_seed(0))
    for name, expected in (("auto", {False}), ("auto, channels-last", {True})):
        with Layouts() as seen:
            Execution(provider(of, name), "forward").evaluate(inputs)
        assert seen.channels_last == expected, name


def test_fused_attention_takes_the_place_of_scores_and_only_there() -> None:
    of = case("forward")
    inputs = of.inputs(torch.Generator().manual_seed(0))
    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        plain = torch.nn.functional.scaled_dot_product_attention
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *x: calls.append(x) or plain(*x))
        for name, blocks in (("published", 0), (SDPA, 4 * 2 + 3), ("published", 0)):
            calls.clear()
            Execution(provider(of, name), "forward").evaluate(inputs)
            assert len(calls) == blocks, name


def test_the_full_set_on_a_gpu_has_every_setting_of_baseline_reference_and_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = case("both")
    nets = {last: (here._net(last), here._twin(last)) for last in (False, True)}
    monkeypatch.setattr(NetworkCase, "_net", lambda self, channels_last=False: nets[channels_last][0])
    monkeypatch.setattr(NetworkCase, "_twin", lambda self, channels_last=False: nets[channels_last][1])
    of = replace(here, device="cuda")
    names = {one.name for one in of.providers().available}
    modes = ("", ", channels-last", ", tuned", ", compiled", ", max-autotune", ", channels-last, tuned, max-autotune")
    assert {f"{base}{mode}" for base in ("published", "reference", "auto") for mode in modes} | {SDPA} <= names


def test_a_shorter_set_has_the_plain_network_alone() -> None:
    names = {one.name for one in case("both", name="quick").providers().available}
    assert names == {"published", "reference", "auto", "aten"}


def test_cudnn_and_tf32_are_switched_for_a_tuned_provider_and_back() -> None:
    def switches() -> tuple[bool, str]:
        return torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()

    before = switches()
    with conditions_of(Provider("one", lambda: None, tuned=True)):
        assert switches() == (True, "high")
    assert switches() == before
    with conditions_of(Provider("one", lambda: None)):
        assert switches() == before


@pytest.mark.parametrize(("mode", "of_torch"), [("compiled", None), ("max-autotune", "max-autotune")])
def test_torch_compiles_in_the_mode_of_the_provider(
    mode: str, of_torch: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic, mode: seen.append(mode) or function)
    Execution(Provider("one", lambda: None, mode=mode), "forward")
    assert seen == [of_torch]
