"""Generated calls of every operator and every block: each gives the right result or an error that names an argument."""

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from seqca import nn as blocks
from seqca.ops import use_backend
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.verification.draws import Results, allowances, as_drawn, drawn_from, exact_results, verdict
from seqca.ops.verification.judge import leaves
from seqca.ops.verification.tolerance import Errors, errors

from .mutations import mutated_calls

TASKS = ("semseg", "depth")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
GENERATOR = Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    """In float64, so that a wrong result cannot pass for rounding."""
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def maps(*channels: int) -> list[Tensor]:
    """A map of 4 × 8 pixels at the finest scale, and so on."""
    return [drawn(2, c, 4 >> k, 8 >> k) for k, c in enumerate(channels)]


BLOCKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "BasicBlock": ({"in_channels": 4, "out_channels": 6, "momentum": 0.1}, {"x": drawn(2, 4, 3, 5)}),
    "CrossAttention": ({"channels": 4}, {"target": drawn(2, 4, 3, 5), "source": drawn(2, 4, 2, 3)}),
    "CrossScaleAttention": ({"channels_per_scale": [4, 6]}, {"features": maps(4, 6)}),
    "CrossTaskAttention": ({"tasks": TASKS, "channels": 4}, {"features": {task: drawn(2, 4, 3, 5) for task in TASKS}}),
    "FeatureAggregation": (
        {"channels_per_scale": [4, 6], "out_channels": 3},
        {"features": maps(4, 6), "attended": [[drawn(2, 4, 4, 8)]]},
    ),
    "FeaturePropagation": (
        {"tasks": TASKS, "channels": 16},
        {"features": {task: drawn(2, 16, 3, 5) for task in TASKS}},
    ),
    "SqueezeExcitation": ({"channels": 8, "reduction": 4}, {"x": drawn(2, 8, 3, 5)}),
    "WindowSelfAttention": (
        {"channels": 8, "depth": 2, "heads": 2, "window": 3, "drop_path": 0.2},
        {"x": drawn(2, 8, 4, 5)},
    ),
}
"""Arguments of the constructor and of `forward`, of every block."""


def operator_calls() -> list[Any]:
    """Of every operator, calls made of its first sample."""
    calls = []
    for operator in OPERATORS.values():
        sample = next(iter(operator.samples.values()))(6, 3, Generator().manual_seed(0))
        for words, arguments in mutated_calls(sample.arguments):
            calls.append(pytest.param(operator.function, arguments, id=f"{operator.name}: {words}"))
    return calls


def constructor_calls() -> list[Any]:
    """Of every block, constructions with a wrong argument."""
    return [
        pytest.param(name, arguments, id=f"{name}: {words}")
        for name, (settings, _) in BLOCKS.items()
        for words, arguments in mutated_calls(settings)
    ]


def forward_calls() -> list[Any]:
    """Of every block, calls with a wrong argument."""
    return [
        pytest.param(name, arguments, id=f"{name}: {words}")
        for name, (_, inputs) in BLOCKS.items()
        for words, arguments in mutated_calls(inputs)
    ]


def result_of(function: Callable[..., Any], arguments: dict[str, Any]) -> list[Tensor] | Exception:
    """The tensors that a call returns, or what it raises."""
    try:
        with torch.no_grad():
            return leaves([function(**arguments)])
    except Exception as error:
        return error


def assert_names_an_argument(error: Exception, function: Callable[..., Any]) -> None:
    """In the one grammar, or in Python's own words for what is missing or too many."""
    assert isinstance(error, (TypeError, ValueError)), repr(error)
    missing = re.search(r"missing 1 required .*argument: '\w+'|unexpected keyword argument '\w+'", str(error))
    names = "|".join(name for name in inspect.signature(function).parameters if name != "self")
    place = rf"({names})(\[[^\]]*\])*"
    assert missing or re.match(rf"{place}(, {place})*: got .*, expected ", str(error), re.DOTALL), repr(error)


DRAWS = 4
"""Of the reference: with so few, 59 typical errors are allowed: the question is which call is computed."""


def finite_errors(actual: Tensor, exact: Tensor) -> Errors:
    """The errors where both are finite."""
    finite = actual.isfinite() & exact.isfinite()
    return errors(actual[finite].flatten(), exact[finite].flatten()) if finite.any() else Errors(0.0, 0.0)


def assert_agrees(
    results: list[Tensor], function: Callable[..., Any], arguments: dict[str, Any], names: Iterable[str]
) -> None:
    """By the tolerance rule wherever the exact result is finite too; what is not finite is never hidden.

    It may spread further than in the reference, to all numbers that share a product: 0 · NaN is NaN.

    Args:
        results: of the function on another backend than the reference.
        function: of the arguments; a module, of any dtype.
        arguments: as they were given to it.
        names: of the arguments that are numbers to compute with, not labels.
    """
    numbers = [x for name in names for x in leaves(arguments.get(name)) if x.dtype in DTYPES]

    def compute(inputs: Sequence[Tensor]) -> Results:
        by_tensor = {id(old): new for old, new in zip(numbers, inputs, strict=True)}
        module = copy.deepcopy(function).to(inputs[0].dtype) if isinstance(function, nn.Module) else function
        given = {name: replaced(value, by_tensor) for name, value in arguments.items()}
        with use_backend("reference"):
            found = result_of(module, given)
        assert not isinstance(found, Exception), repr(found)
        return {f"result {i}": x for i, x in enumerate(found)}

    exact = exact_results(compute, numbers)
    assert [x.shape for x in results] == [x.shape for x in exact.values()]
    if results[0].device.type == "meta":
        return
    assert all(x.isfinite().all() for x in results) == all(x.isfinite().all() for x in exact.values())
    allowance = allowances(drawn_from(compute, as_drawn(numbers)), finite_errors, DRAWS)
    for result, (what, true) in zip(results, exact.items(), strict=True):
        judged = verdict(what, result, true, allowance[what], finite_errors)
        assert judged.ok, str(judged)


def replaced(tree: Any, by_tensor: dict[int, Tensor]) -> Any:
    """The same lists and dicts with other tensors."""
    if isinstance(tree, Tensor):
        return by_tensor.get(id(tree), tree)
    if isinstance(tree, dict):
        return {key: replaced(value, by_tensor) for key, value in tree.items()}
    return [replaced(value, by_tensor) for value in tree] if isinstance(tree, (list, tuple)) else tree


@pytest.mark.parametrize(("function", "arguments"), operator_calls())
def test_an_operator_gives_the_right_result_or_names_an_argument(
    function: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    with use_backend("aten"):
        found = result_of(function, arguments)
    if isinstance(found, Exception):
        assert_names_an_argument(found, function)
        return
    sample = next(iter(OPERATORS[function.__name__].samples.values()))(6, 3, Generator())
    assert_agrees(found, function, arguments, sample.differentiable)


@pytest.mark.parametrize(("name", "arguments"), constructor_calls())
def test_a_block_can_be_built_and_called_or_names_an_argument(name: str, arguments: dict[str, Any]) -> None:
    kind = getattr(blocks, name)
    try:
        block = kind(**arguments)
    except Exception as error:
        assert_names_an_argument(error, kind)
        return
    # What can be built computes, or names the map that it was not built for.
    block.double()
    inputs = BLOCKS[name][1]
    found = result_of(block, inputs)
    if isinstance(found, Exception):
        assert_names_an_argument(found, block.forward)


@pytest.mark.parametrize(("name", "arguments"), forward_calls())
def test_a_block_gives_the_right_result_or_names_an_argument(name: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block = getattr(blocks, name)(**BLOCKS[name][0]).double().eval()
    with use_backend("aten"):
        found = result_of(block, copy.copy(arguments))
    if isinstance(found, Exception):
        assert_names_an_argument(found, block.forward)
        return
    assert_agrees(found, block, arguments, arguments)


def test_all_blocks_are_called_and_hundreds_of_calls_are_made() -> None:
    assert set(BLOCKS) == {name for name in blocks.__all__ if isinstance(getattr(blocks, name), type)}
    assert len(operator_calls()) >= 200
    assert len(constructor_calls()) + len(forward_calls()) >= 200
