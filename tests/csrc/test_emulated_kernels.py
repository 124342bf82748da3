"""The CUDA kernels, run block by block and lane by lane on the host, against the reference.

The code under test is what nvcc compiles; only the instructions are emulated. Shared memory and outputs are full of
NaN before a kernel runs, so what is read unwritten or left unwritten shows.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from seqca.ops.verification.draws import Results, judged
from seqca.reference.linear_attention import linear_attention

from .host import EmulatedKernels

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
RESULTS = ("output", "dq", "dk", "dv")
Entry = tuple[Tensor, Tensor, Tensor, Tensor]


def _entry(
    leading: tuple[int, ...], targets: int, sources: int, channels: int, values: int, dtype: torch.dtype, seed: int = 0
) -> Entry:
    """q, k, v and the gradient of the output."""
    rng = torch.Generator().manual_seed(seed)

    def normal(tokens: int, width: int) -> Tensor:
        return torch.randn(*leading, tokens, width, generator=rng, dtype=torch.float64)

    q, k = softplus(normal(targets, channels)), softplus(normal(sources, channels))
    v, grad = normal(sources, values), normal(targets, values)
    return tuple(x.to(dtype) for x in (q, k, v, grad))  # type: ignore[return-value]


def _reference(entry: Sequence[Tensor], eps: float) -> Results:
    q, k, v, grad = (x.detach().requires_grad_() for x in entry)
    output = linear_attention(q, k, v, eps=eps)
    return dict(zip(RESULTS, (output.detach(), *torch.autograd.grad(output, (q, k, v), grad)), strict=True))


def _results(kernels: EmulatedKernels, entries: list[Entry], eps: float, blocks: int) -> list[list[Tensor]]:
    """Output, dq, dk, dv of every entry."""
    q, k, v, grad = (list(x) for x in zip(*entries, strict=True))
    outputs, states = kernels.forward(q, k, v, eps, blocks)
    gradients = kernels.backward(grad, q, k, v, states, eps, blocks)
    return [list(x) for x in zip(outputs, *gradients, strict=True)]


def _check(kernels: EmulatedKernels, entries: list[Entry], eps: float = 1e-12, blocks: int = 528) -> None:
    for entry, results in zip(entries, _results(kernels, entries, eps, blocks), strict=True):
        for verdict in judged(partial(_reference, eps=eps), entry, dict(zip(RESULTS, results, strict=True))):
            assert verdict.ok, verdict


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "values"), [(18, 18), (36, 36), (72, 72), (5, 40), (60, 7), (1, 1), (37, 19)])
def test_kernels_agree_with_the_reference(
    emulated_kernels: EmulatedKernels, dtype: torch.dtype, channels: int, values: int
) -> None:
    _check(emulated_kernels, [_entry((2,), 111, 150, channels, values, dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("targets", "sources"), [(1, 2), (63, 64), (16, 49), (300, 3)])
def test_numbers_of_tokens_may_be_odd(
    emulated_kernels: EmulatedKernels, dtype: torch.dtype, targets: int, sources: int
) -> None:
    _check(emulated_kernels, [_entry((3,), targets, sources, 36, 36, dtype)])


@pytest.mark.parametrize("blocks", [pytest.param(1, marks=pytest.mark.processor), 2, 7])
@pytest.mark.parametrize("channels", [18, 72])
def test_a_block_may_work_on_several_tiles(emulated_kernels: EmulatedKernels, channels: int, blocks: int) -> None:
    for dtype in DTYPES:
        _check(emulated_kernels, [_entry((), 333, 401, channels, channels, dtype)], blocks=blocks)


def _token_major(x: Tensor) -> Tensor:
    return x.contiguous()


def _channel_major(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


def _sliced_channels(x: Tensor) -> Tensor:
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), float("nan"), dtype=x.dtype)
    wide[..., 1:-2] = x
    return wide[..., 1:-2]


def _every_second_token(x: Tensor) -> Tensor:
    wide = torch.full((*x.shape[:-2], 2 * x.shape[-2], x.shape[-1]), float("nan"), dtype=x.dtype)
    wide[..., ::2, :] = x
    return wide[..., ::2, :]


def _nothing_adjacent(x: Tensor) -> Tensor:
    wide = torch.full((*x.shape, 2), float("nan"), dtype=x.dtype)
    wide[..., 1] = x
    return wide[..., 1]


def _leading_last(x: Tensor) -> Tensor:
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


LAYOUTS = (_token_major, _channel_major, _sliced_channels, _every_second_token, _nothing_adjacent, _leading_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [96, 83])
def test_tensors_may_have_any_strides(
    emulated_kernels: EmulatedKernels, layout: Callable[[Tensor], Tensor], dtype: torch.dtype, tokens: int
) -> None:
    entry = _entry((2,), tokens, tokens, 36, 36, dtype)
    expected = _results(emulated_kernels, [entry], 1e-12, 528)
    mixed = tuple(f(x) for f, x in zip((layout, _channel_major, layout, layout), entry, strict=True))
    found = _results(emulated_kernels, [mixed], 1e-12, 528)  # type: ignore[list-item]
    for a, b in zip(found[0], expected[0], strict=True):
        assert torch.equal(a, b)


@pytest.mark.processor
def test_the_gradient_of_a_sum_has_no_strides(emulated_kernels: EmulatedKernels) -> None:
    q, k, v, _ = _entry((2,), 70, 70, 36, 36, torch.float32)
    _check(emulated_kernels, [(q, k, v, torch.ones(()).expand(2, 70, 36))])


@pytest.mark.parametrize("dimensions", ["none", "kept", "mixed"])
def test_leading_indices_need_not_merge(emulated_kernels: EmulatedKernels, dimensions: str) -> None:
    leading = {"none": (), "kept": (2, 3), "mixed": (2, 3, 2, 2)}[dimensions]
    q, k, v, grad = _entry(leading, 20, 33, 18, 18, torch.float32)
    if dimensions == "mixed":
        # Every pair of neighbouring dimensions is interrupted in one of the tensors.
        k = k.permute(3, 1, 0, 2, 4, 5).contiguous().permute(2, 1, 3, 0, 4, 5)
        grad = grad.transpose(0, 2).contiguous().transpose(0, 2)
        q = q[:, :1].expand(leading + q.shape[-2:])
    _check(emulated_kernels, [(q, k, v, grad)])


def test_entries_of_different_sizes_share_launches(emulated_kernels: EmulatedKernels) -> None:
    for dtype in DTYPES:
        entries = [_entry((1 + i % 3,), 10 + 7 * i, 90 - 3 * i, 36, 30, dtype, seed=i) for i in range(25)]
        _check(emulated_kernels, entries)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clamped_denominators_pass_no_gradient(emulated_kernels: EmulatedKernels, dtype: torch.dtype) -> None:
    q, k, v, grad = _entry((2,), 80, 80, 36, 36, dtype)
    q[:, ::2] /= 64
    _check(emulated_kernels, [(q, k, v, grad)], eps=80 * 36 / 16)


def _in_single_precision(entry: Sequence[Tensor]) -> Results:
    """The reference of float16, whose own sums overflow, rounded from float32."""
    wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in entry]
    return {what: x.to(entry[0].dtype) for what, x in _reference(wide, 1e-12).items()}


def test_sums_beyond_the_range_of_float16_do_no_harm(emulated_kernels: EmulatedKernels) -> None:
    q, k, v, grad = _entry((1,), 64, 900, 36, 36, torch.float16)
    k, v = k * 30, (v.abs() + 1) * 30
    assert (v.double().mT @ k.double()).max() > 10 * torch.finfo(torch.float16).max
    (results,) = _results(emulated_kernels, [(q, k, v, grad)], 1e-12, 528)
    for verdict in judged(_in_single_precision, (q, k, v, grad), dict(zip(RESULTS, results, strict=True))):
        assert verdict.ok, verdict


def _states(sources: Sequence[Tensor]) -> Results:
    """At least in float32."""
    k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in sources)
    return {"state": torch.cat([v.mT @ k, k.sum(-2, keepdim=True)], -2)}


def test_states_are_the_sums_of_the_source(emulated_kernels: EmulatedKernels) -> None:
    q, k, v, _ = _entry((2, 2), 10, 130, 18, 12, torch.bfloat16)
    _, (state,) = emulated_kernels.forward([q], [k], [v], 1e-12)
    assert state.shape == (2, 2, 13, 18)
    (verdict,) = judged(_states, [k, v], {"state": state})
    assert verdict.ok, verdict


def test_results_have_the_same_bits_every_time(emulated_kernels: EmulatedKernels) -> None:
    entry = _entry((2,), 200, 300, 36, 36, torch.bfloat16)
    first, again = (_results(emulated_kernels, [entry], 1e-12, 4)[0] for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)


def test_nan_in_a_query_stays_in_its_row_and_is_not_lost(emulated_kernels: EmulatedKernels) -> None:
    q, k, v, grad = _entry((1,), 70, 70, 36, 36, torch.bfloat16)
    q[0, 5, 3] = float("nan")
    output = _results(emulated_kernels, [(q, k, v, grad)], 1e-12, 528)[0][0]
    assert output[0, 5].isnan().all()
    output[0, 5] = 0
    assert output.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [18, 36, 72])
def test_shared_memory_fits_every_gpu_from_sm_80_on(
    emulated_kernels: EmulatedKernels, dtype: torch.dtype, channels: int
) -> None:
    # 99 KiB on sm_86, sm_89 and sm_120; sm_80, sm_90 and sm_100 have more.
    assert max(emulated_kernels.shared_memory(dtype, channels)) <= 99 * 1024


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_computed_by_tensor_cores_and_single_precision_is_not(
    emulated_kernels: EmulatedKernels, dtype: torch.dtype
) -> None:
    q, k, v, _ = _entry((1,), 64, 64, 36, 36, dtype)
    emulated_kernels.forward([q], [k], [v], 1e-12)
    assert (emulated_kernels.products > 0) == (dtype != torch.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_offsets_have_64_bits(emulated_kernels: EmulatedKernels, axis: int) -> None:
    shape = [3, 70, 18]
    entry = _entry((3,), 70, 70, 18, 18, torch.bfloat16)
    expected = _results(emulated_kernels, [entry], 1e-12, 528)[0]
    # The last index of one axis lies more than 2³¹ numbers from the first, in memory that nothing touches.
    strides = {0: [0, 18, 1], 1: [18, 0, 1], 2: [70, 1, 0]}[axis]
    strides[axis] = 2**31 // (shape[axis] - 1) + 1
    buffer = torch.empty(2**31 + 2**16, dtype=torch.bfloat16)
    views = []
    for i, x in enumerate(entry):
        far = buffer.as_strided(shape, strides, 7 + 4096 * i)
        far.copy_(x)
        views.append(far)
    found = _results(emulated_kernels, [tuple(views)], 1e-12, 528)[0]  # type: ignore[list-item]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
