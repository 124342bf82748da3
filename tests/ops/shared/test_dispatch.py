"""Which backend runs, who may decide it, and what is said when it cannot."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import seqca
from seqca import extension
from seqca.ops.shared import availability, preferences
from seqca.ops.shared.dispatch import BackendUnavailable, forced_backend, refusal, resolve, use_backend
from seqca.ops.shared.operator import OPERATORS, Call

OPERATOR = OPERATORS["linear_attention"]
CPU = Call("cpu", torch.float32, 36, 19200)
GPU = Call("cuda", torch.bfloat16, 36, 19200)


@pytest.fixture(autouse=True)
def nothing_forced() -> Iterator[None]:
    with use_backend("auto"):
        yield


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter without the settings of the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SEQCA_", "TRITON_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, check=False
    )


def tokens(**options: Any) -> torch.Tensor:
    return torch.rand(3, 4, **options)


def test_on_the_cpu_torch_algebra_is_chosen_and_on_a_gpu_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "TRITON_INSTALLED", True)
    monkeypatch.setattr(availability, "TRITON_INTERPRETED", False)
    assert resolve(OPERATOR, CPU) == "aten"
    assert resolve(OPERATOR, GPU) == "triton"
    assert resolve(OPERATOR, GPU._replace(dtype=torch.float64)) == "aten"
    assert resolve(OPERATOR, GPU._replace(device="mps")) == "aten"


def test_without_triton_a_gpu_uses_torch_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "TRITON_INSTALLED", False)
    assert resolve(OPERATOR, GPU) == "aten"


def test_a_checkout_without_its_kernels_uses_torch_algebra_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "TRITON_INSTALLED", True)
    monkeypatch.setattr(availability, "TRITON_INTERPRETED", False)
    monkeypatch.setattr(availability, "KERNELS_INSTALLED", False)
    assert resolve(OPERATOR, GPU) == "aten"
    assert "pip install -e ." in (refusal(OPERATOR, "triton", GPU) or "")


def test_the_interpreter_of_triton_is_never_chosen_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "TRITON_INSTALLED", True)
    monkeypatch.setattr(availability, "TRITON_INTERPRETED", True)
    assert resolve(OPERATOR, CPU) == "aten"
    assert refusal(OPERATOR, "triton", CPU) is None


def test_a_measured_row_comes_before_the_default_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    row = preferences.Preference("cuda", ("aten",), max_channels=36, max_tokens=20000, dtypes=(GPU.dtype,))
    monkeypatch.setitem(preferences.MEASURED, "linear_attention", (row,))
    assert preferences.preference("linear_attention", GPU) == ("aten",)
    assert preferences.preference("linear_attention", GPU._replace(channels=37))[0] == "triton"
    assert preferences.preference("linear_attention", GPU._replace(tokens=20001))[0] == "triton"
    assert preferences.preference("linear_attention", GPU._replace(dtype=torch.float64))[0] == "triton"
    assert preferences.preference("linear_attention", CPU)[0] == "aten"
    assert preferences.preference("another", GPU)[0] == "triton"


def test_a_measured_row_decides_eager_and_compiled_calls_also_where_sizes_are_dynamic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = (preferences.Preference("cpu", ("reference",), max_channels=4, max_tokens=10),)
    monkeypatch.setitem(preferences.MEASURED, "linear_attention", rows)
    ran: list[int] = []
    implementation = OPERATOR.implementation("aten")
    forward = implementation.forward
    monkeypatch.setattr(implementation, "forward", lambda *args: (ran.append(len(args[0][0])), forward(*args))[1])
    torch.compiler.reset()
    compiled = torch.compile(seqca.ops.linear_attention, backend="aot_eager", fullgraph=True, dynamic=True)
    for function in (seqca.ops.linear_attention, compiled):
        ran.clear()
        for size in (9, 12, 10, 11):
            x = torch.rand(size, 4)
            function(x, x, x)
        assert ran == [12, 11]
        function(torch.rand(9, 5), torch.rand(9, 5), torch.rand(9, 5))
        assert ran == [12, 11, 9]


@pytest.mark.parametrize(
    ("backend", "call", "reason"),
    [
        ("triton", CPU, "needs CUDA tensors"),
        ("triton", GPU._replace(dtype=torch.float64), "not torch.float64"),
        ("cuda", GPU, "seqca._C is not built"),
    ],
)
def test_a_forced_backend_that_cannot_run_raises_its_reason(
    backend: str, call: Call, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "TRITON_INSTALLED", True)
    monkeypatch.setattr(availability, "TRITON_INTERPRETED", False)
    monkeypatch.setattr(extension, "ABSENCE", "the extension seqca._C is not built: no nvcc")
    with use_backend(backend), pytest.raises(BackendUnavailable, match=f"linear_attention.*{backend}.*{reason}"):
        resolve(OPERATOR, call)


def test_a_missing_triton_a_wrong_interpreter_and_a_wrong_device_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(availability, "TRITON_INSTALLED", False)
    assert refusal(OPERATOR, "triton", GPU) == "Triton is not installed"
    monkeypatch.setattr(availability, "TRITON_INSTALLED", True)
    monkeypatch.setattr(availability, "TRITON_INTERPRETED", True)
    assert "bfloat16" in (refusal(OPERATOR, "triton", CPU._replace(dtype=torch.bfloat16)) or "")
    monkeypatch.setattr(extension, "ABSENCE", None)
    assert "needs CUDA tensors" in (refusal(OPERATOR, "cuda", CPU) or "")
    assert "at most 72 channels" in (refusal(OPERATOR, "cuda", GPU._replace(channels=144)) or "")


def test_a_backend_that_an_operator_lacks_is_refused_for_that_and_not_for_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extension, "ABSENCE", "the extension seqca._C is not built: no nvcc")
    without = replace(OPERATOR, backends=("aten",))
    assert refusal(without, "cuda", GPU) == "linear_attention has no such implementation"


def test_the_public_function_raises_for_a_forced_backend_that_cannot_run() -> None:
    x = tokens(dtype=torch.float64)
    with use_backend("triton"), pytest.raises(BackendUnavailable, match="linear_attention"):
        seqca.ops.linear_attention(x, x, x)


def test_use_backend_holds_as_a_call_and_restores_as_a_context() -> None:
    use_backend("aten")
    assert forced_backend() == "aten"
    with use_backend("reference"):
        assert forced_backend() == "reference"
        with use_backend("auto"):
            assert forced_backend() == "auto"
    assert forced_backend() == "aten"
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert forced_backend() == "aten"


def in_a_thread(function: Callable[[], Any]) -> Any:
    """What a function returns in a thread of its own."""
    returned: list[Any] = []
    thread = threading.Thread(target=lambda: returned.append(function()))
    thread.start()
    thread.join()
    return returned[0]


def test_the_main_thread_decides_for_threads_that_have_not_decided() -> None:
    use_backend("aten")
    assert in_a_thread(forced_backend) == "aten"
    with use_backend("reference"):
        assert in_a_thread(forced_backend) == "reference"
    assert in_a_thread(forced_backend) == "aten"


def test_another_thread_decides_for_itself_alone_until_it_leaves_the_block() -> None:
    def decide() -> list[str]:
        with use_backend("reference"):
            seen = [forced_backend(), in_a_thread(forced_backend)]
            with use_backend("auto"):
                seen.append(forced_backend())
            seen.append(forced_backend())
        seen.append(forced_backend())
        use_backend("reference")
        return [*seen, forced_backend()]

    use_backend("aten")
    assert in_a_thread(decide) == ["reference", "aten", "auto", "reference", "aten", "reference"]
    assert forced_backend() == "aten"
    assert in_a_thread(forced_backend) == "aten"


def test_blocks_that_overlap_in_two_threads_leave_nothing_behind() -> None:
    entered, left, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with use_backend("reference"):
            entered.set()
            left.wait(60)
            seen.append(forced_backend())
        seen.append(forced_backend())

    thread = threading.Thread(target=other)
    with use_backend("aten"):
        thread.start()
        entered.wait(60)
        assert forced_backend() == "aten"
    left.set()
    thread.join()
    assert seen == ["reference", "auto"]
    assert forced_backend() == "auto"


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_threads_that_force_different_backends_at_once_each_get_theirs(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    implementation = OPERATOR.implementation("aten")
    forward = implementation.forward
    monkeypatch.setattr(implementation, "forward", lambda *args: (ran.append(threading.get_ident()), forward(*args))[1])
    torch.compiler.reset()
    function = seqca.ops.linear_attention
    if compiled:
        function = torch.compile(function, backend="eager", fullgraph=True)
    x, together, wrong = tokens(), threading.Barrier(4), []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def call(backend: str) -> None:
        own = threading.get_ident()
        for step in range(40):
            together.wait(60)
            with use_backend(backend):
                earlier = ran.count(own)
                function(x, x, x)
                if (ran.count(own) > earlier) != (backend == "aten") or forced_backend() != backend:
                    wrong.append((backend, step))
            if forced_backend() != "auto":
                wrong.append((backend, step))

    threads = [threading.Thread(target=call, args=(name,)) for name in ("aten", "reference") * 2]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
    assert len(ran) == 2 * 40


def test_an_unknown_backend_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match=r"name: got 'nvidia', expected one of auto, reference, aten, triton, cuda"):
        use_backend("nvidia")
    assert forced_backend() == "auto"


def test_the_environment_forces_a_backend_for_the_process() -> None:
    code = "from seqca.ops.shared.dispatch import forced_backend; print(forced_backend())"
    assert python(code, SEQCA_BACKEND="reference").stdout == "reference\n"
    refused = python(code, SEQCA_BACKEND="fastest")
    assert refused.returncode != 0
    assert "ValueError: SEQCA_BACKEND: got 'fastest', expected one of auto" in refused.stderr


def test_importing_loads_no_triton_no_lightning_and_touches_no_gpu() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import seqca; new = set(sys.modules) - before;"
        "roots = {name.split('.')[0] for name in new};"
        "print(sorted(roots & {'triton', 'lightning', 'torchmetrics', 'timm', 'matplotlib'}),"
        "any(name.startswith('seqca.kernels.') for name in new), torch.cuda.is_initialized())"
    )
    assert python(code).stdout == "[] False False\n"


def test_a_switch_recompiles_a_compiled_function() -> None:
    graphs: list[set[str]] = []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(seqca.ops.linear_attention, backend=note, fullgraph=True)
    x = tokens()
    for backend in ("aten", "reference", "aten"):
        with use_backend(backend):
            compiled(x, x, x)
    fused = [any("seqca" in target for target in targets) for targets in graphs]
    assert fused == [True, False]


def test_a_compiled_function_may_switch_inside() -> None:
    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with use_backend("reference"):
            one = seqca.ops.linear_attention(x, x, x)
        return one, seqca.ops.linear_attention(x, x, x)

    torch.compiler.reset()
    x = tokens(dtype=torch.float64, requires_grad=True)
    plain, fused = torch.compile(both, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(plain, fused)
    assert forced_backend() == "auto"


def test_a_gradient_is_computed_by_the_backend_of_its_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tokens(requires_grad=True)
    with use_backend("aten"):
        output = seqca.ops.linear_attention(x, x, x)
    calls: list[int] = []
    implementation = OPERATOR.implementation("aten")
    backward = implementation.backward
    monkeypatch.setattr(implementation, "backward", lambda *args: (calls.append(1), backward(*args))[1])
    with use_backend("reference"):
        output.sum().backward()
    assert calls == [1]
