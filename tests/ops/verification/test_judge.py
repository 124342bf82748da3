"""Operators judged on their samples."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from seqca.ops import softplus
from seqca.ops.shared.dispatch import use_backend
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.verification import judge as module
from seqca.ops.verification.judge import cotangents, evaluate, judge, rounded


def test_the_reference_never_runs_in_deterministic_mode(poison: None) -> None:
    """In which torch refuses some of what it needs on a GPU."""
    modes = []

    def noting(x: Tensor) -> Tensor:
        modes.append(torch.are_deterministic_algorithms_enabled())
        return softplus(x)

    operator = replace(OPERATORS["softplus"], function=noting)
    generator = Generator().manual_seed(0)
    sample = rounded(operator.samples["both signs"](4, 2, generator), torch.float32)
    gradients = cotangents(operator, sample, generator)
    results = evaluate(softplus, sample, gradients)
    assert all(verdict.ok for verdict in judge(operator, sample, gradients, results))
    assert modes and not any(modes)
    assert torch.are_deterministic_algorithms_enabled()


def test_results_are_computed_like_the_draws_that_judge_them_without_tf32() -> None:
    modes = []

    def noting(x: Tensor) -> Tensor:
        modes.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        return softplus(x)

    operator = replace(OPERATORS["softplus"], function=noting)
    generator = Generator().manual_seed(0)
    sample = rounded(operator.samples["both signs"](4, 2, generator), torch.float32)
    gradients = cotangents(operator, sample, generator)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        judge(operator, sample, gradients, evaluate(noting, sample, gradients))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(modes) > 2 and set(modes) == {(False, "highest")}
    assert torch.backends.cudnn.allow_tf32


def test_backends_share_the_draws_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, generator = OPERATORS["softplus"], Generator().manual_seed(1)
    sample = rounded(operator.samples["both signs"](4, 2, generator), torch.float32)
    gradients = cotangents(operator, sample, generator)
    results = evaluate(softplus, sample, gradients)
    first = judge(operator, sample, gradients, results)
    monkeypatch.setattr(module, "allowances", None)  # would be called for new ones
    assert judge(operator, sample, gradients, results) == first
    with pytest.raises(TypeError):
        judge(operator, sample, [2 * g for g in gradients], results)


@pytest.mark.processor
@pytest.mark.parametrize(
    ("sample", "seeds"), [("values", (25, 53)), ("unit vectors", (6,)), ("few positives", (7, 8, 13, 20, 32, 37, 38))]
)
def test_what_serves_as_exact_in_float64_may_round_too(sample: str, seeds: tuple[int, ...]) -> None:
    """A few units in the last place in a sum, or alike in all pixels in a weight that comes from the labels."""
    operator = OPERATORS["upsampled_loss"]
    for seed in seeds:
        generator = Generator().manual_seed(seed)
        arguments = rounded(operator.samples[sample](63, 5 + seed % 30, generator), torch.float64)
        gradients = cotangents(operator, arguments, generator)
        with use_backend("aten"):
            results = evaluate(operator.function, arguments, gradients)
        for verdict in judge(operator, arguments, gradients, results):
            assert verdict.ok, str(verdict)
