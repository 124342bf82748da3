"""What holds for linear attention alone."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from seqca.ops import linear_attention, use_backend
from seqca.ops.verification.draws import Results, judged
from seqca.reference.linear_attention import linear_attention as reference


def tokens(*shape: int, **options: Any) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), **options)


def test_a_single_source_token_passes_its_values_on() -> None:
    q, k, v = (tokens(*shape, dtype=torch.float64) for shape in ((7, 5), (1, 5), (1, 3)))
    torch.testing.assert_close(linear_attention(q, k, v), v.expand(7, 3))


def test_lists_give_what_their_entries_give() -> None:
    entries = [[tokens(2, n, 5), tokens(2, m, 5), tokens(2, m, 4)] for n, m in ((3, 8), (9, 1), (6, 6))]
    q, k, v = (list(tensors) for tensors in zip(*entries, strict=True))
    together = linear_attention(q, tuple(k), v)
    assert isinstance(together, list)
    for output, entry in zip(together, entries, strict=True):
        assert torch.equal(output, linear_attention(*entry))


@pytest.mark.parametrize("leading", [(), (6,), (2, 3), (1, 2, 3)])
def test_leading_dimensions_are_independent_problems(leading: tuple[int, ...]) -> None:
    q, k, v = tokens(6, 4, 5), tokens(6, 8, 5), tokens(6, 8, 3)
    if not leading:
        q, k, v = q[:1], k[:1], v[:1]
    shaped = [x.reshape(*leading, *x.shape[-2:]).clone().requires_grad_() for x in (q, k, v)]
    flat = [x.clone().requires_grad_() for x in (q, k, v)]
    one, other = linear_attention(*shaped), linear_attention(*flat)
    assert one.shape == (*leading, 4, 3)
    assert torch.equal(one.flatten(), other.flatten())
    one.square().sum().backward()
    other.square().sum().backward()
    for x, y in zip(shaped, flat, strict=True):
        assert torch.equal(x.grad.flatten(), y.grad.flatten())


def test_leading_dimensions_need_not_be_adjacent_in_memory() -> None:
    q, k, v = (tokens(3, n, 2, c).transpose(1, 2) for n, c in ((4, 5), (8, 5), (8, 3)))
    assert torch.equal(linear_attention(q, k, v), linear_attention(q.contiguous(), k.contiguous(), v.contiguous()))


def test_a_tensor_in_several_entries_collects_all_their_gradients() -> None:
    q, k, v = (tokens(*shape, dtype=torch.float64) for shape in ((4, 5), (8, 5), (8, 3)))
    q, keys = q.requires_grad_(), [k, 2 - k]
    sum(output.square().sum() for output in linear_attention([q, q], keys, [v, v])).backward()
    expected = sum(torch.autograd.grad(reference(q, k, v).square().sum(), q)[0] for k in keys)
    torch.testing.assert_close(q.grad, expected)


def test_an_entry_that_nothing_depends_on_gets_no_gradient() -> None:
    q, k, v = ([tokens(4, 5, requires_grad=True) for _ in range(2)] for _ in range(3))
    first, _ = linear_attention(q, k, v)
    first.sum().backward()
    for tensors in (q, k, v):
        assert tensors[0].grad is not None
        assert tensors[1].grad is None or not tensors[1].grad.any()


def test_only_the_arguments_and_the_small_states_are_kept_for_backward() -> None:
    q, k, v = tokens(2, 300, 5, requires_grad=True), tokens(2, 400, 5), tokens(2, 400, 3)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        linear_attention(q, k, v)
    new = [x for x in kept if x.untyped_storage().data_ptr() not in {y.untyped_storage().data_ptr() for y in (q, k, v)}]
    assert [tuple(x.shape) for x in new] == [(2, 4, 5)]


def in_single_precision(inputs: Sequence[Tensor]) -> Results:
    """The reference of float16, whose own sums overflow, rounded from float32."""
    wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in inputs]
    return {"output": reference(*wide).to(inputs[0].dtype)}


def test_sums_beyond_the_range_of_float16_do_no_harm() -> None:
    q, k = (200 * tokens(3000, 6, dtype=torch.float16) for _ in range(2))
    v = (200 * tokens(3000, 4)).half()
    for x in (q, k, v):
        x.requires_grad_()
    assert reference(q, k, v).isnan().any()
    output = linear_attention(q, k, v)
    output.sum().backward()
    (verdict,) = judged(in_single_precision, [q, k, v], {"output": output.detach()})
    assert verdict.ok, str(verdict)
    assert all(x.grad.isfinite().all() for x in (q, k, v))


def test_a_clamped_denominator_is_eps_and_passes_no_gradient() -> None:
    q, k, v = tokens(3, 4, 5, dtype=torch.float64), tokens(3, 8, 5, dtype=torch.float64), tokens(3, 8, 3).double()
    q[0], q[1] = -q[0], 0
    inputs = [x.requires_grad_() for x in (q, k, v)]
    output = linear_attention(*inputs, eps=0.25)
    torch.testing.assert_close(output[0], q[0] @ k[0].mT @ v[0] / 0.25)
    assert not output[1].any()
    results = torch.autograd.grad(output.square().sum(), inputs)
    expected = torch.autograd.grad(reference(*inputs, eps=0.25).square().sum(), inputs)
    torch.testing.assert_close(results, expected)


def test_gradients_agree_with_finite_differences() -> None:
    inputs = [tokens(n, c, dtype=torch.float64, requires_grad=True) for n, c in ((3, 2), (4, 2), (4, 3))]
    assert torch.autograd.gradcheck(linear_attention, inputs)


def test_the_reference_is_plain_torch() -> None:
    q = tokens(4, 5, requires_grad=True)
    with use_backend("reference"):
        output = linear_attention(q, q, q)
    assert torch.equal(output, reference(q, q, q))
    assert type(output.grad_fn).__name__ == "DivBackward0"


GOOD = {"q": tokens(2, 4, 5), "k": tokens(2, 8, 5), "v": tokens(2, 8, 3)}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": "tokens"}, TypeError, "q: got str, expected a tensor or a list of tensors"),
        ({"v": [GOOD["v"], 1.0]}, TypeError, r"v\[1\]: got float, expected a tensor"),
        ({"q": [GOOD["q"]]}, TypeError, "q, k, v: got tensors and lists of tensors, expected three of one kind"),
        ({"q": [GOOD["q"]] * 2, "k": [GOOD["k"]], "v": [GOOD["v"]]}, ValueError, "q, k, v: got 2, 1 and 1 entries"),
        ({"q": [], "k": [], "v": []}, ValueError, "q, k, v: got 0, 0 and 0 entries"),
        ({"eps": None}, TypeError, "eps: got NoneType, expected a number"),
        ({"eps": torch.tensor(1.0)}, TypeError, "eps: got Tensor, expected a number"),
        ({"eps": 0.0}, ValueError, "eps: got 0.0, expected a positive number"),
        ({"eps": float("inf")}, ValueError, "eps: got inf, expected a number from 1.2e-38 to 3.4e"),
        ({"eps": 1e-300}, ValueError, "eps: got 1e-300, expected a number from 1.2e-38 to 3.4e"),
        ({"q": GOOD["q"].long()}, TypeError, r"q: got torch.int64, expected one of torch.float32"),
        ({"k": GOOD["k"].double()}, TypeError, r"k\[0\]: got torch.float64, expected torch.float32 as in q"),
        ({"v": GOOD["v"].to("meta")}, ValueError, r"v\[0\]: got a tensor on meta, expected cpu as in q"),
        ({"q": tokens(5)}, ValueError, r"q\[0\]: got shape \(5,\), expected \(..., N, channels\)"),
        ({"k": tokens(2, 8, 5)[:, :0]}, ValueError, r"k\[0\]: got shape \(2, 0, 5\), expected .* not empty"),
        ({"k": tokens(2, 8, 4)}, ValueError, r"k\[0\]: got shape \(2, 8, 4\), expected \(2, 'N_k', 5\)"),
        ({"k": tokens(1, 8, 5)}, ValueError, r"k\[0\]: got shape \(1, 8, 5\), expected \(2, 'N_k', 5\)"),
        ({"v": tokens(2, 7, 3)}, ValueError, r"v\[0\]: got shape \(2, 7, 3\), expected \(2, 8, 3\)"),
        (
            {"q": [GOOD["q"], tokens(4, 6)], "k": [GOOD["k"], tokens(8, 6)], "v": [GOOD["v"], tokens(8, 3)]},
            ValueError,
            r"q\[1\]: got 6 channels, expected 5 as in the first entry",
        ),
        (
            {"q": [GOOD["q"]] * 2, "k": [GOOD["k"]] * 2, "v": [GOOD["v"], tokens(2, 8, 4)]},
            ValueError,
            r"v\[1\]: got shape \(2, 8, 4\), expected \(2, 8, 3\)",
        ),
    ],
)
def test_bad_arguments_are_named_at_the_door(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        linear_attention(**{**GOOD, **changes})


def test_calls_alike_are_checked_once_and_wrong_ones_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("seqca.ops.linear_attention")
    checked: list[Any] = []
    check = module._check

    def counted(*arguments: Any) -> None:
        checked.append(arguments)
        check(*arguments)

    monkeypatch.setattr(module, "_check", counted)
    q, k, v = (tokens(3, n, c) for n, c in ((11, 5), (13, 5), (13, 4)))
    for _ in range(2):
        linear_attention([q, q], [k, k], [v, v])
    assert len(checked) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match=r"v\[0\]: got shape"):
            linear_attention(q, k, v[:, 1:])
    assert len(checked) == 3


def test_arguments_of_an_output_that_nobody_differentiates_have_zero_gradients() -> None:
    entries = [[tokens(2, n, 5, requires_grad=True) for n in (3, 8, 8)] for _ in range(2)]
    output, _ = linear_attention(*map(list, zip(*entries, strict=True)))
    output.square().sum().backward()
    expected = torch.autograd.grad(linear_attention(*entries[0]).square().sum(), entries[0])
    for x, y, gradient in zip(*entries, expected, strict=True):
        assert torch.equal(x.grad, gradient)
        assert torch.equal(y.grad, torch.zeros_like(y))
