"""Every demand on a fused operator, asked of every registered operator on every backend that runs here.

A new operator is asked all of this by being registered: see CONTRIBUTING.md.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from seqca.ops.shared import dispatch
from seqca.ops.shared.dispatch import BACKENDS, refusal, use_backend
from seqca.ops.shared.operator import OPERATORS, Call, Operator
from seqca.ops.shared.sample import Sample
from seqca.ops.verification.judge import (
    cotangents,
    evaluate,
    inputs_of,
    judge,
    leaves,
    mapped,
    prepared,
    rounded,
)

from .layouts import FAR_ELEMENTS, GRADIENT_LAYOUTS, INPUT_LAYOUTS, far_apart
from .pairs import Case, all_pairs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CHANNELS = (18, 36, 60, 72, 144, 288)
TOKENS = (1, 63, 111)
KEEPS_NO_ARGUMENT = {"softplus"}
"""What torch.compile says of a second derivative through these alone, as through torch.exp: an input is not used."""


def runnable(operator: Operator, dtype: torch.dtype) -> list[str]:
    """The fused backends that run a dtype here."""
    call = Call(DEVICE, dtype, 36, 111)
    return [name for name in BACKENDS[1:] if refusal(operator, name, call) is None]


FUSED = [
    pytest.param(operator, backend, id=f"{operator.name}-{backend}")
    for operator in OPERATORS.values()
    for backend in runnable(operator, torch.float32)
]
FUSED_HALF = [
    pytest.param(operator, backend, dtype, id=f"{operator.name}-{backend}-{dtype}".replace("torch.", ""))
    for operator in OPERATORS.values()
    for dtype in (torch.bfloat16, torch.float16)
    for backend in runnable(operator, dtype)
]
FUSED_SAMPLES = [
    pytest.param(operator, backend, sample, id=f"{operator.name}-{backend}-{sample}".replace(" ", "_"))
    for operator in OPERATORS.values()
    for backend in runnable(operator, torch.float32)
    for sample in operator.samples
]


def axes_of(operator: Operator) -> range:
    """Of the tensors with most dimensions."""
    sample = next(iter(operator.samples.values()))(5, 2, Generator())
    return range(max(x.ndim for x in inputs_of(sample)))


FUSED_AXES = [
    pytest.param(*fused.values, axis, id=f"{fused.id}-{axis}") for fused in FUSED for axis in axes_of(fused.values[0])
]


def cases_of(operator: Operator, backend: str) -> list[Case]:
    """Every two of the things a call may differ in; in Triton's slow interpreter, fewer of them for many channels."""
    channels = [n for n in CHANNELS if refusal(operator, backend, Call(DEVICE, torch.float32, n, 111)) is None]
    axes: dict[str, tuple[Any, ...]] = {
        "gradient_layout": tuple(GRADIENT_LAYOUTS),
        "layout": tuple(INPUT_LAYOUTS),
        "dtype": tuple(dtype for dtype in DTYPES if backend in runnable(operator, dtype)),
        "sample": tuple(operator.samples),
    }
    if backend != "triton" or DEVICE != "cpu":
        return all_pairs(channels=channels, tokens=TOKENS, **axes)
    narrow = affordable(all_pairs(channels=[n for n in channels if n <= 72], tokens=TOKENS, **axes))
    # Each of them with every value of the other axes, which change all at once.
    axes |= {"tokens": (63, 1, 111, 1, 9, 9, 1), "dtype": (torch.float32, *[torch.float16] * 6)}
    wide = [
        {"channels": n, **{name: values[i % len(values)] for name, values in axes.items()}}
        for n in channels
        if n > 72
        for i in range(max(map(len, axes.values())))
    ]
    return narrow + wide


def affordable(cases: list[Case]) -> list[Case]:
    """The same, many channels with many tokens once each and then with few: the interpreter takes long for them."""
    met, changed = set(), []
    for case in cases:
        pair = case["channels"], case["tokens"]
        many = case["channels"] > 36 and case["tokens"] > 9
        changed.append(case | {"tokens": 9} if many and pair in met else case)
        met.add(pair)
    return changed


def agreement_cases() -> list[Any]:
    """The cases of every operator and backend."""
    params = []
    for operator in OPERATORS.values():
        for backend in runnable(operator, torch.float32):
            for case in cases_of(operator, backend):
                name = "-".join(str(value).removeprefix("torch.").replace(" ", "_") for value in case.values())
                params.append(pytest.param(operator, backend, case, id=f"{operator.name}-{backend}-{name}"))
    return params


def drawn(
    operator: Operator, sample: str, dtype: torch.dtype, tokens: int = 63, channels: int = 18
) -> tuple[Sample, list[Tensor]]:
    """Arguments and gradients of the outputs."""
    generator = Generator().manual_seed(0)
    arguments = rounded(operator.samples[sample](tokens, channels, generator), dtype, DEVICE)
    return arguments, cotangents(operator, arguments, generator)


def first_sample(operator: Operator, **options: Any) -> tuple[Sample, list[Tensor]]:
    """Arguments and gradients where it does not matter which."""
    return drawn(operator, next(iter(operator.samples)), torch.float32, **options)


def forward_of(operator: Operator) -> Any:
    """The custom operator."""
    return getattr(torch.ops.seqca, operator.name).default


def backward_of(operator: Operator) -> Any:
    """The custom operator of its gradient."""
    return getattr(torch.ops.seqca, f"{operator.name}_backward").default


def kind_of(x: Tensor) -> tuple[Any, ...]:
    """What a fake tells of a tensor."""
    return x.shape, x.stride(), x.dtype, x.device


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The results agree in dtype and to the last bit."""
    assert one.keys() == other.keys()
    for what, result in one.items():
        assert result.dtype == other[what].dtype, what
        assert torch.equal(result, other[what]), what


@pytest.mark.processor
@pytest.mark.parametrize(("operator", "backend", "case"), agreement_cases())
def test_agrees_with_the_reference_whatever_the_strides_sizes_and_dtype(
    operator: Operator, backend: str, case: Case, poison: None
) -> None:
    sample, gradients = drawn(operator, case["sample"], case["dtype"], case["tokens"], case["channels"])
    layout = INPUT_LAYOUTS[case["layout"]]
    labels = {name: mapped(layout, x) for name, x in sample.arguments.items() if name not in sample.differentiable}
    sample = prepared(sample._replace(arguments=sample.arguments | labels), layout)
    gradients = [GRADIENT_LAYOUTS[case["gradient_layout"]](g) for g in gradients]
    with use_backend(backend):
        results = evaluate(operator.function, sample, gradients)
    for verdict in judge(operator, sample, gradients, results):
        assert verdict.ok, str(verdict)


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


def test_poison_reaches_every_way_to_allocate(poison: None) -> None:
    x = torch.zeros(3, device=DEVICE)
    for fresh in (torch.empty(3, device=DEVICE), torch.empty_like(x), x.new_empty(3), x.new_empty_strided((3,), (2,))):
        assert fresh.isnan().all()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Operator, str], dict[str, list[Any]]]:
    """Starts to note the arguments with which a backend's forward and backward are called."""

    def start(operator: Operator, backend: str) -> dict[str, list[Any]]:
        implementation = operator.implementation(backend)
        calls: dict[str, list[Any]] = {"forward": [], "backward": []}

        def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*args: Any) -> Any:
                calls[name].append(args)
                return function(*args)

            return noted

        for name in calls:
            monkeypatch.setattr(implementation, name, noting(name, getattr(implementation, name)))
        return calls

    return start


@pytest.mark.parametrize(("operator", "backend", "sample"), FUSED_SAMPLES)
def test_passes_opcheck(operator: Operator, backend: str, sample: str, recorded: Callable[..., Any]) -> None:
    arguments, gradients = drawn(operator, sample, torch.float32, tokens=7)
    calls = recorded(operator, backend)
    with use_backend(backend):
        evaluate(operator.function, arguments, gradients)
    (forward_args,), (backward_args,) = calls["forward"], calls["backward"]
    torch.library.opcheck(forward_of(operator), (*forward_args, backend))
    torch.library.opcheck(backward_of(operator), (*mapped(Tensor.detach, backward_args), backend))


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


def both(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A function, and the same compiled without graph breaks, on the compiler's tracing parts alone."""
    torch.compiler.reset()
    return function, torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize(("operator", "backend", "sample"), FUSED_SAMPLES)
def test_compiles_whole_forward_and_backward_to_the_same_bits(operator: Operator, backend: str, sample: str) -> None:
    arguments, gradients = drawn(operator, sample, torch.float32)
    with use_backend(backend):
        eager, compiled = (evaluate(function, arguments, gradients) for function in both(operator.function))
    assert_same_bits(compiled, eager)


@pytest.mark.parametrize(("operator", "backend"), FUSED)
def test_one_graph_of_inductor_serves_all_sizes(operator: Operator, backend: str, recorded: Callable[..., Any]) -> None:
    torch.compiler.reset()
    graphs = torch.compile(operator.function, fullgraph=True, dynamic=True)
    for tokens in (7, 12, 19):
        arguments, gradients = first_sample(operator, tokens=tokens)
        with use_backend(backend):
            assert_same_bits(evaluate(graphs, arguments, gradients), evaluate(operator.function, arguments, gradients))
            with torch.compiler.set_stance("fail_on_recompile"):
                evaluate(graphs, arguments, gradients)


@pytest.mark.parametrize(("operator", "backend", "sample"), FUSED_SAMPLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_every_run_gives_the_same_bits(operator: Operator, backend: str, sample: str, dtype: torch.dtype) -> None:
    arguments, gradients = drawn(operator, sample, dtype, tokens=100)
    with use_backend(backend):
        first, second = (evaluate(operator.function, arguments, gradients) for _ in range(2))
    assert_same_bits(first, second)


@pytest.fixture
def threads() -> Iterator[None]:
    """Two threads, between which a sum may be shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("operator", "backend", "sample"), [case for case in FUSED_SAMPLES if case.values[1] == "aten"]
)
def test_every_run_on_several_threads_gives_the_same_bits(
    operator: Operator, backend: str, sample: str, threads: None
) -> None:
    arguments, gradients = drawn(operator, sample, torch.float32, tokens=5000, channels=36)
    with use_backend(backend):
        first, *others = (evaluate(operator.function, arguments, gradients) for _ in range(4))
    for other in others:
        assert_same_bits(first, other)


@pytest.mark.parametrize(("operator", "backend", "dtype"), FUSED_HALF)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_under_autocast_computes_as_with_inputs_cast_at_the_door(
    operator: Operator, backend: str, dtype: torch.dtype, compiled: bool
) -> None:
    arguments, gradients = first_sample(operator)
    function = both(operator.function)[compiled]
    inside = dtype if operator.casts else torch.float32
    with use_backend(backend):
        cast = prepared(arguments, lambda x: x.to(inside))
        gradients = [g.to(x.dtype) for g, x in zip(gradients, leaves(operator.function(**cast.arguments)), strict=True)]
        expected = evaluate(operator.function, cast, gradients)
        with torch.autocast(DEVICE, dtype):
            results = evaluate(function, arguments, gradients)
    assert_same_bits(results, {what: x if what.startswith("output") else x.float() for what, x in expected.items()})


@pytest.mark.parametrize(("operator", "backend"), FUSED)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_second_derivative_is_refused(operator: Operator, backend: str, compiled: bool) -> None:
    arguments, gradients = first_sample(operator, tokens=7)
    gradients = [g.requires_grad_() for g in gradients]
    inputs = inputs_of(arguments)
    with use_backend(backend):
        outputs = leaves(both(operator.function)[compiled](**arguments.arguments))
        pairs = [(x, g) for x, g in zip(outputs, gradients, strict=True) if x.requires_grad]
        outputs, gradients = zip(*pairs, strict=True)
        first = torch.autograd.grad(outputs, inputs, gradients, create_graph=True)
    refusal = r"second derivative|double backward"
    if compiled and operator.name in KEEPS_NO_ARGUMENT:
        refusal += r"|appears to not have been used in the graph"
    for source in (*inputs, *gradients):
        with pytest.raises((NotImplementedError, RuntimeError), match=refusal):
            torch.autograd.grad(sum(d.square().sum() for d in first), source, retain_graph=True)


@pytest.mark.parametrize(("operator", "backend"), FUSED)
def test_a_forward_mode_derivative_is_refused(operator: Operator, backend: str) -> None:
    arguments, _ = first_sample(operator, tokens=7)
    with use_backend(backend), forward_ad.dual_level():
        dual = {
            name: mapped(lambda x: forward_ad.make_dual(x.detach(), torch.ones_like(x)), value)
            if name in arguments.differentiable
            else value
            for name, value in arguments.arguments.items()
        }
        with pytest.raises(NotImplementedError, match=f"{operator.name}: forward-mode derivatives"):
            operator.function(**dual)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda operator: operator.name)
def test_the_reference_has_a_second_derivative(operator: Operator) -> None:
    arguments, gradients = drawn(operator, next(iter(operator.samples)), torch.float64, tokens=3, channels=2)
    inputs = inputs_of(arguments)

    def function(*_: Tensor) -> tuple[Tensor, ...]:  # gradgradcheck changes the inputs in place
        with use_backend("reference"):
            return tuple(x for x in leaves(operator.function(**arguments.arguments)) if x.requires_grad)

    gradients = gradients[: len(function())]
    assert torch.autograd.gradgradcheck(function, inputs, gradients)


@pytest.mark.parametrize(("operator", "backend", "axis"), FUSED_AXES)
def test_reaches_elements_past_two_to_the_31(operator: Operator, backend: str, axis: int) -> None:
    buffer = torch.empty(FAR_ELEMENTS, dtype=torch.float16, device=DEVICE)
    sample, gradients = drawn(operator, next(iter(operator.samples)), torch.float16, tokens=5)
    slots = iter(range(64))
    sample = prepared(sample, lambda x: far_apart(x, axis, buffer, next(slots)))
    gradients = [far_apart(g, axis, buffer, next(slots)) for g in gradients]
    with use_backend(backend):
        results = evaluate(operator.function, sample, gradients)
    for verdict in judge(operator, sample, gradients, results):
        assert verdict.ok, str(verdict)


@pytest.mark.parametrize(("operator", "backend"), FUSED)
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

    arguments, gradients = first_sample(operator)
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
