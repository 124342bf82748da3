"""The baseline of the operator's cases is the published head: what it computes, and that it does nothing beside."""

from dataclasses import replace
from typing import Any

import torch
from torch import Generator
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases.aggregation_head import case, network_levels
from benchmarks.cases.shapes import case_set, nyud
from benchmarks.harness.execution import Execution
from benchmarks.harness.operator_case import OperatorCase
from benchmarks.harness.quantities import quantities
from benchmarks.harness.run import checked
from seqca.ops.shared.operator import OPERATORS


def small_case(dtype: str = "fp32") -> OperatorCase:
    """A head on the network's maps of a small image."""
    levels = network_levels(nyud(2)._replace(height=64, width=96))
    return case("small", levels, 2, 3, dtype, "both", case_set("quick", "cpu"))


class Passes(TorchDispatchMode):
    """Names of the operators that read or write as many elements as the first convolution makes, or more."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.names = elements, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, result)) if isinstance(x, torch.Tensor)]
        if not func.is_view and any(x.numel() >= self.elements for x in tensors):
            self.names.append(func.overloadpacket.__name__)
        return result


def test_it_computes_what_the_operators_reference_does() -> None:
    small = small_case("fp64")
    inputs = small.inputs(Generator().manual_seed(0))
    providers = small.providers().available
    own = Execution(providers[0], "both").evaluate(inputs)
    reference = replace(providers[0], function=OPERATORS["aggregation_head"].reference)
    for found, expected in zip(own, Execution(reference, "both").evaluate(inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_it_and_the_backends_pass_the_check_and_a_wrong_variance_does_not() -> None:
    small = small_case()
    baseline, *others = small.providers().available
    assert baseline.name == small.baseline and others
    expected = small.expected(baseline, Generator().manual_seed(0))
    for provider in (baseline, *others):
        check = checked(small, provider, expected)[0]["check"]
        assert check["ok"], check["what"]

    def biased(**arguments: Any) -> Any:
        prediction, mean, variance = baseline.function(**arguments)
        tokens = prediction.numel() // prediction.shape[1]
        return prediction, mean, variance * (tokens - 1) / tokens

    assert not checked(small, replace(baseline, function=biased), expected)[0]["check"]["ok"]


def test_parameters_do_not_count_as_kept_and_maps_do() -> None:
    small = nyud(1)._replace(height=64, width=96)
    head = case("small", network_levels(small), 3, 1, "fp32", "both", case_set("quick", "cpu"))
    inputs = head.inputs(Generator().manual_seed(0))
    provider = next(x for x in head.providers().available if x.name == "aten")
    kept = quantities(head, provider, Execution(provider, "both"), inputs)["kept_bytes"]
    maps = {x.data_ptr(): x.nbytes for x in inputs.arguments["maps"]}
    assert sum(maps.values()) < kept < sum(maps.values()) + inputs.arguments["weight"].nbytes / 10


def test_nothing_passes_over_the_finest_resolution_but_the_published_layers() -> None:
    small = small_case()
    inputs = small.inputs(Generator().manual_seed(0))
    with Passes(small.sizes["tokens"] * small.sizes["channels"]) as passes:
        small.providers().available[0].function(**inputs.arguments)
    assert passes.names == ["cat", "convolution", "native_batch_norm", "relu", "convolution"]
