"""Every operator is a custom operator of torch: schema, fakes, compiler, checkpoints, graphs, devices."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from seqca.ops.shared import dispatch
from seqca.ops.shared.dispatch import use_backend
from seqca.ops.shared.operator import OPERATORS, Call, Operator
from seqca.ops.verification.judge import evaluate, leaves, mapped, rounded

from .calls import (
    DEVICE,
    FUSED,
    FUSED_SAMPLES,
    asked_of_torch,
    assert_same_bits,
    backward_of,
    both,
    drawn,
    few,
    first_sample,
    forward_of,
    interpreted,
)

OF_EVERY_BACKEND = ("test_schema", "test_faketensor")
"""What opcheck asks of an implementation. The rest it asks of the operator, whose gradient calls any backend alike."""


@pytest.mark.parametrize(("operator", "backend", "sample"), FUSED_SAMPLES)
def test_passes_opcheck(operator: Operator, backend: str, sample: str, recorded: Callable[..., Any]) -> None:
    arguments, gradients = drawn(operator, sample, torch.float32, tokens=7)
    calls = recorded(operator, backend)
    with use_backend(backend):
        evaluate(operator.function, arguments, gradients)
    (forward_args,), (backward_args,) = calls["forward"], calls["backward"]
    checks = {"test_utils": OF_EVERY_BACKEND} if interpreted(backend) else {}
    torch.library.opcheck(forward_of(operator), (*forward_args, backend), **checks)
    torch.library.opcheck(backward_of(operator), (*mapped(Tensor.detach, backward_args), backend), **checks)


def kind_of(x: Tensor) -> tuple[Any, ...]:
    """What a fake tells of a tensor."""
    return x.shape, x.stride(), x.dtype, x.device


@pytest.mark.parametrize(
    ("operator", "backend", "sample"), [case for case in FUSED_SAMPLES if case.values[1] in ("aten", "triton")]
)
def test_reads_nothing_back_from_the_device_and_returns_what_the_fakes_promise(
    operator: Operator, backend: str, sample: str, recorded: Callable[..., Any]
) -> None:
    arguments, gradients = drawn(operator, sample, torch.float16, tokens=7)
    calls = recorded(operator, backend)
    with use_backend(backend):
        evaluate(operator.function, arguments, gradients)
    implementation = operator.implementation(backend)
    with import_module("seqca.kernels.launch").record() if backend == "triton" else nullcontext():
        for name, custom in (("forward", forward_of(operator)), ("backward", backward_of(operator))):
            # A tensor without values has none that could be read.
            call = mapped(lambda x: x.detach().to("meta"), calls[name].pop())
            results, promised = leaves(getattr(implementation, name)(*call)), leaves(custom(*call, backend))
            assert [kind_of(x) for x in results] == [kind_of(x) for x in promised]


def tells_more(operator: Operator, backend: str, sample: str) -> bool:
    """Whether a sample has a graph of its own: those of two backends differ in a name, so that one sample will do in
    the slow interpreter."""
    return not interpreted(backend) or sample == next(iter(operator.samples))


@pytest.mark.parametrize(
    ("operator", "backend", "sample"), asked_of_torch([case for case in FUSED_SAMPLES if tells_more(*case.values)])
)
def test_compiles_whole_forward_and_backward_to_the_same_bits(operator: Operator, backend: str, sample: str) -> None:
    arguments, gradients = drawn(operator, sample, torch.float32, tokens=few(backend))
    with use_backend(backend):
        eager, compiled = (evaluate(function, arguments, gradients) for function in both(operator.function))
    assert_same_bits(compiled, eager)


@pytest.mark.parametrize(("operator", "backend"), asked_of_torch(FUSED))
def test_inductor_computes_the_same_bits_and_compiles_a_size_once(
    operator: Operator, backend: str, recorded: Callable[..., Any]
) -> None:
    torch.compiler.reset()
    # The numbers of branches and pairs are constants; the compiler of torch 2.11 cannot count with them as symbols.
    dynamic = None if operator.name == "cross_attention" else True
    graphs = torch.compile(operator.function, fullgraph=True, dynamic=dynamic)
    for tokens in (7, 12) if interpreted(backend) else (7, 12, 19):
        arguments, gradients = first_sample(operator, tokens=tokens)
        with use_backend(backend):
            assert_same_bits(evaluate(graphs, arguments, gradients), evaluate(operator.function, arguments, gradients))
            with torch.compiler.set_stance("fail_on_recompile"):
                evaluate(graphs, arguments, gradients)


@pytest.mark.parametrize(("operator", "backend"), asked_of_torch(FUSED))
@pytest.mark.parametrize("saved", [True, False], ids=["saved", "recomputed"])
def test_selective_checkpointing_decides_whether_it_runs_again(
    operator: Operator, backend: str, saved: bool, recorded: Callable[..., Any]
) -> None:
    def policy(ctx: Any, function: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = saved and function == forward_of(operator)
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    def checkpointed(**kwargs: Any) -> Any:
        contexts = partial(create_selective_checkpoint_contexts, policy)
        return checkpoint(operator.function, use_reentrant=False, context_fn=contexts, **kwargs)

    arguments, gradients = first_sample(operator, tokens=few(backend))
    with use_backend(backend):
        plain = evaluate(operator.function, arguments, gradients)
        calls = recorded(operator, backend)
        results = evaluate(checkpointed, arguments, gradients)
    assert len(calls["forward"]) == (1 if saved else 2)
    assert_same_bits(results, plain)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@pytest.mark.parametrize(("operator", "backend"), FUSED)
def test_can_be_captured_in_a_cuda_graph(operator: Operator, backend: str) -> None:
    arguments, gradients = first_sample(operator)
    with use_backend(backend):
        plain = evaluate(operator.function, arguments, gradients)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            evaluate(operator.function, arguments, gradients)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = evaluate(operator.function, arguments, gradients)
        graph.replay()
    assert_same_bits(captured, plain)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(("operator", "backend"), FUSED)
def test_runs_on_the_device_of_its_tensors(operator: Operator, backend: str) -> None:
    arguments, gradients = first_sample(operator)
    moved = rounded(arguments, torch.float32, "cuda:1")
    with use_backend(backend), torch.cuda.device(0):
        results = evaluate(operator.function, moved, [g.to("cuda:1") for g in gradients])
        expected = evaluate(operator.function, arguments, gradients)
    assert all(x.device.index == 1 for x in results.values())
    assert_same_bits({what: x.cpu() for what, x in results.items()}, {what: x.cpu() for what, x in expected.items()})


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda operator: operator.name)
def test_the_choice_of_a_backend_looks_at_the_call_that_is_described(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Call] = []

    def note(name: str, call: Call) -> tuple[str, ...]:
        seen.append(call)
        return ("reference",)

    monkeypatch.setattr(dispatch, "preference", note)
    for name in operator.samples:
        arguments = drawn(operator, name, torch.float16, tokens=7)[0].arguments
        seen.clear()
        with use_backend("auto"):
            operator.function(**arguments)
        assert seen == [operator.describe(**arguments)]
        assert seen[0].device == DEVICE and seen[0].dtype == torch.float16
