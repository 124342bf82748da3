"""The Triton kernels of linear attention called directly: natively on a GPU, else in Triton's interpreter (no bf16)."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from seqca.kernels import linear_attention
from seqca.kernels.launch import record
from seqca.kernels.linear_attention import LaunchParameters, TileSizes, backward, forward
from seqca.kernels.map_tables import MAX_ENTRIES
from torch import Tensor
from torch.nn.functional import softplus

from seqca.ops.verification.draws import Results, judged
from seqca.reference.linear_attention import linear_attention as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.float16, torch.bfloat16) if DEVICE == "cuda" else (torch.float32, torch.float16)

Entry = tuple[Tensor, Tensor, Tensor, Tensor]
"""q, k, v and the gradient of the output."""

RESULTS = ("output", "dq", "dk", "dv")

pytestmark = pytest.mark.usefixtures("poison")


def draw(
    leading: tuple[int, ...],
    queries: int,
    sources: int,
    d: int,
    e: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Entry:
    generator = torch.Generator().manual_seed(seed)

    def normal(tokens: int, channels: int) -> Tensor:
        return torch.randn(*leading, tokens, channels, generator=generator)

    entry = softplus(normal(queries, d)), softplus(normal(sources, d)), normal(sources, e), normal(queries, e)
    return tuple(x.to(DEVICE, dtype) for x in entry)


def by_reference(entry: Sequence[Tensor], eps: float) -> Results:
    *inputs, grad = (x.detach().requires_grad_() for x in entry)
    output = reference(*inputs, eps=eps)
    return dict(zip(RESULTS, (output.detach(), *torch.autograd.grad(output, inputs, grad)), strict=True))


def by_kernels(entries: list[Entry], eps: float) -> list[tuple[Tensor, ...]]:
    """(output, dq, dk, dv) of every entry."""
    q, k, v, grad = (list(tensors) for tensors in zip(*entries, strict=True))
    outputs, states = forward(q, k, v, eps)
    return list(zip(outputs, *backward(grad, q, k, v, states, eps), strict=True))


def check(entries: list[Entry], eps: float = 1e-12) -> None:
    """Outputs and gradients by the tolerance rule, and the layout that is promised."""
    for entry, results in zip(entries, by_kernels(entries, eps), strict=True):
        assert all(found.is_contiguous() and found.dtype == entry[0].dtype for found in results)
        for verdict in judged(partial(by_reference, eps=eps), entry, dict(zip(RESULTS, results, strict=True))):
            assert verdict.ok, str(verdict)


@pytest.mark.parametrize(
    ("d", "e", "dtype"),
    [
        (18, 18, torch.float16),
        (36, 36, torch.float32),
        (60, 60, torch.float16),
        (64, 64, torch.float16),
        (72, 72, torch.float16),
        (144, 144, torch.float16),
        (5, 130, torch.float16),
        (130, 5, torch.float16),
    ],
)
def test_agrees_with_the_reference_for_channels_that_fill_no_tile(d: int, e: int, dtype: torch.dtype) -> None:
    check([draw((2,), 63, 111, d, e, dtype)])


@pytest.mark.parametrize(("d", "e"), [(72, 65), (1, 1), (3, 33)])
def test_agrees_with_the_reference_in_single_precision_by_tiles(d: int, e: int) -> None:
    check([draw((1,), 33, 40, d, e)])


@pytest.mark.processor
@pytest.mark.parametrize(("queries", "sources"), [(2, 1), (111, 63), (130, 257)])
def test_agrees_with_the_reference_for_any_number_of_tokens(queries: int, sources: int) -> None:
    check([draw((1,), queries, sources, 18, 18)])


@pytest.mark.parametrize("leading", [(), (3,), (2, 1, 2), (1, 1), (2, 2, 1, 2)])
def test_takes_any_number_of_leading_dimensions(leading: tuple[int, ...]) -> None:
    check([draw(leading, 30, 33, 14, 11, torch.float16)])


def transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


def leading_dimensions_swapped(x: Tensor) -> Tensor:
    return x.transpose(0, 2).contiguous().transpose(0, 2)


def misaligned_slice(x: Tensor) -> Tensor:
    around = x.new_full((*x.shape[:-1], x.shape[-1] + 3), torch.nan)
    return around[..., 1:-2].copy_(x)


def every_other(x: Tensor) -> Tensor:
    around = x.new_full([2 * n for n in x.shape], torch.nan)
    return around[tuple(slice(1, None, 2) for _ in x.shape)].copy_(x)


def expanded(x: Tensor) -> Tensor:
    return x[:1, :, :1].expand(x.shape)


@pytest.mark.parametrize("change", [transposed, leading_dimensions_swapped, misaligned_slice, every_other, expanded])
@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_may_have_any_strides(change: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    check([tuple(change(x) for x in draw((2, 3, 2), 40, 44, 14, 14, dtype))])


@pytest.mark.processor
def test_the_gradient_of_a_sum_has_no_strides() -> None:
    q, k, v, grad = draw((2,), 20, 24, 8, 8)
    check([(q, k, v, grad.new_ones(()).expand(grad.shape))])


def test_entries_of_a_list_may_differ_in_tokens_leading_shape_and_strides() -> None:
    first, second, third = draw((2,), 40, 30, 8, 8), draw((), 7, 90, 8, 8, seed=1), draw((1, 3), 64, 1, 8, 8, seed=2)
    check([first, tuple(transposed(x) for x in second), third])


def test_lists_may_be_longer_than_one_launch() -> None:
    check([draw((1 + i % 2,), 20 + i, 40 - i, 4, 4, torch.float16, seed=i) for i in range(MAX_ENTRIES + 2)])


@pytest.mark.parametrize("d", [8, 70])
def test_no_gradient_passes_a_clamp_that_is_active(d: int) -> None:
    q, k, v, grad = draw((2,), 33, 20, d, d)
    denominators = (q.double() @ k.double().sum(-2, keepdim=True).mT).flatten().sort().values
    below, above = denominators[len(denominators) // 2 - 1 :][:2].tolist()
    check([(q, k, v, grad)], eps=(below + above) / 2)


def test_maps_of_zeros_have_outputs_and_gradients() -> None:
    q, k, v, grad = draw((2,), 33, 20, 8, 8)
    check([(q, torch.zeros_like(k), v, grad * 1e-9), (torch.zeros_like(q), k, v, grad * 1e-9)])


def test_negative_denominators_are_clamped() -> None:
    q, k, v, grad = draw((2,), 33, 20, 8, 8)
    q = torch.where(torch.arange(33, device=DEVICE)[:, None] % 2 == 0, q, -q)
    check([(q, k, v, grad)], 0.25)


@pytest.mark.parametrize("d", [8, 80])
def test_sums_beyond_half_precision_do_not_overflow(d: int) -> None:
    q, k, v, grad = entry = draw((1,), 40, 60, d, d, torch.float16)
    v.abs_()
    large = q, k * 256, v * 16, grad * 64
    _, states = forward(*([x] for x in large[:3]), 1e-12)
    assert states[0].abs().max() > 2 * torch.finfo(torch.float16).max
    (results,) = by_kernels([large], 1e-12)
    # Where nothing overflows, in the reference neither, powers of two change nothing but exponents.
    factors = (16, 16 * 64, 16 * 64 / 256, 64)
    scaled = {name: x / factor for name, x, factor in zip(RESULTS, results, factors, strict=True)}
    for verdict in judged(partial(by_reference, eps=1e-12), entry, scaled):
        assert verdict.ok, str(verdict)


@pytest.mark.parametrize("d", [8, 80])
def test_queries_of_rare_keys_among_frequent_ones_have_gradients_in_half_precision(d: int) -> None:
    q, k, v, grad = draw((2,), 40, 60, d, d, torch.float16)
    half = torch.arange(d, device=DEVICE) < d // 2
    # 1/d is 10⁵ times the one that the largest Σ k has, and o as many times the one of the largest S.
    q = torch.where(half, q, 0)
    k = torch.where(half, k * 1e-3, k * 100)
    check([(q, k, v, grad / 64)])


def test_the_state_holds_the_sums() -> None:
    q, k, v, _ = draw((2, 2), 5, 150, 6, 7)
    _, (state,) = forward([q], [k], [v], 1e-12)
    assert state.dtype == torch.float32 and state.is_contiguous()

    def sums(inputs: Sequence[Tensor]) -> Results:
        v, k = inputs
        return {"state": torch.cat([v, torch.ones_like(v[..., :1])], -1).mT @ k}

    (verdict,) = judged(sums, (v, k), {"state": state})
    assert verdict.ok, str(verdict)


@pytest.mark.parametrize("axis", [0, -2, -1])
def test_elements_may_lie_more_than_2_to_31_elements_apart(axis: int) -> None:
    torch.utils.deterministic.fill_uninitialized_memory = False  # of the buffer, only what is used is ever touched
    buffer = torch.empty(2**31 + 2**16, dtype=torch.float16, device=DEVICE)
    torch.utils.deterministic.fill_uninitialized_memory = True

    def far_apart(x: Tensor, slot: int) -> Tensor:
        strides = list(x.stride())
        strides[axis] = 2**31 // (x.shape[axis] - 1) + 1
        return buffer.as_strided(x.shape, strides, slot * 2**10).copy_(x)

    check([tuple(far_apart(x, slot) for slot, x in enumerate(draw((2,), 5, 7, 4, 4, torch.float16)))])


@pytest.mark.parametrize("d", [8, 72])
def test_gives_the_same_bits_every_time(d: int) -> None:
    entry = draw((2,), 70, 90, d, d, torch.float16)
    first, second = by_kernels([entry], 1e-12), by_kernels([entry], 1e-12)
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))


def test_launches_take_the_parameters_of_their_class_of_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for times, dtype in ((1, torch.float16), (2, torch.bfloat16)):
        planted = LaunchParameters(*(TileSizes(10 * times * i, 64, 64, i, 1) for i in (1, 2, 3, 4)), parts=3)
        monkeypatch.setitem(linear_attention.PARAMETERS[dtype], 64, planted)

    def launched(channels: int, dtype: torch.dtype) -> list[tuple[int, int]]:
        q, k, v, grad = ([x.to(dtype).to("meta")] for x in draw((2,), 480, 480, channels, channels))
        with record() as launches:
            _, states = forward(q, k, v, 1e-12)
            backward(grad, q, k, v, states, 1e-12)
        return [(launch.arguments["BLOCK_N"], launch.options["num_warps"]) for launch in launches]

    expected = [(10, 1), (20, 2), (30, 3), (40, 4)]
    assert launched(36, torch.float16) == launched(63, torch.float16) == expected
    assert launched(36, torch.bfloat16) == [(2 * tokens, warps) for tokens, warps in expected]
    for channels, dtype in ((36, torch.float32), (31, torch.float16), (64, torch.float16)):  # E + 1 = 65 is beyond 64
        assert not set(expected) & set(launched(channels, dtype))


def test_products_of_float32_are_float32_unless_torch_is_told_otherwise() -> None:
    def precisions() -> set[str]:
        q, k, v, grad = ([x.to("meta")] for x in draw((2,), 5, 6, 7, 8))
        with record() as launches:
            _, states = forward(q, k, v, 1e-12)
            backward(grad, q, k, v, states, 1e-12)
        return {launch.arguments["PRECISION"] for launch in launches}

    before = torch.get_float32_matmul_precision()
    assert precisions() == {"ieee"}
    try:
        torch.set_float32_matmul_precision("high")
        assert precisions() == {"tf32"}
    finally:
        torch.set_float32_matmul_precision(before)
    assert precisions() == {"ieee"}


COMPILED_SUMS = """
import re
import torch
from seqca.kernels.compilation import compile_launch
from seqca.kernels.launch import record
from seqca.kernels.linear_attention import backward, forward
q, k, v, grad = ([torch.empty(2, 64, 144, device="meta")] for _ in range(4))
with record(architecture=90) as launches:
    _, states = forward(q, k, v, 1e-12)
    backward(grad, q, k, v, states, 1e-12)
for launch in launches:
    if launch.kernel.fn.__name__.endswith("tiled"):
        text = compile_launch(launch, 90).asm["ttgir"]
        sums = re.findall(r"tt\\.dot [^,]+, [^,]+, (%\\w+)", text)
        print(launch.kernel.fn.__name__, *(f"{x} = arith.constant dense<0.0" in text for x in sums))
"""


def test_compiled_products_of_float32_are_added_up_tile_by_tile() -> None:
    """One chain of all channels would err more than the reference does; the interpreter has none."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", f"import seqca\n{COMPILED_SUMS}"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.stdout.split("\n")[:-1] == [
        "linear_attention_forward_output_tiled True",
        "linear_attention_backward_queries_tiled True True",
        "linear_attention_backward_sources_tiled True True",
    ], run.stdout + run.stderr
