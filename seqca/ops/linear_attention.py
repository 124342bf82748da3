"""Linear attention, the core of every cross attention in the network.

Every backend's module offers

    forward(q, k, v, eps) -> (outputs, states)
    backward(grad, q, k, v, states, eps) -> (dq, dk, dv)

All but `eps` are lists of tensors, one for each entry: q (..., N_q, D), k (..., N_k, D), v (..., N_k, E), grad (...,
N_q, E), of any strides, stride 0 included, with equal leading dimensions within an entry. Outputs and gradients are
contiguous and have the dtype of the inputs. A state is (..., E + 1, D): the rows of S = Σ v kᵀ, then z = Σ k, in
float32 (float64 for float64).
"""

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from seqca.reference.linear_attention import linear_attention as reference

from .cuda.linear_attention import limit as cuda_limit
from .samples.linear_attention import SAMPLES
from .shared.autocast import to_autocast_dtype
from .shared.checks import check_floating, check_list, check_positive
from .shared.custom import custom_operator
from .shared.dispatch import resolve
from .shared.operator import (
    Call,
    Operator,
    call_fused,
    kernel_scope,
    refuse_forward_mode,
    refuse_second_derivative,
    register,
)
from .shared.remembered import remembered


@overload
def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-12) -> Tensor: ...


@overload
def linear_attention(
    q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor], *, eps: float = 1e-12
) -> list[Tensor]: ...


def linear_attention(
    q: Tensor | Sequence[Tensor],
    k: Tensor | Sequence[Tensor],
    v: Tensor | Sequence[Tensor],
    *,
    eps: float = 1e-12,
) -> Tensor | list[Tensor]:
    """Attention without softmax, whose cost is linear in the number of tokens.

    With S = Σ_n v_n k_nᵀ and z = Σ_n k_n over the source tokens n, the output at query m is
    S q_m / max(z·q_m, eps). The feature maps of q and k are applied by the caller (Kim, Choi, Min, ICIP 2022,
    section 2.2).

    Lists compute several attentions, say of several tasks or scales, in one operator call; entries are not stacked.
    Numbers of tokens and leading dimensions may differ between entries; D, E, dtype and device may not. A tensor may
    stand in several entries. No entry is copied, with one exception: `aten` copies tensors whose leading dimensions
    no view merges into one.

    Only the arguments and one (E + 1) × D state per leading index are kept for backward. Sums are float32 for
    half precision, float64 for float64. On the backend `reference` this is `seqca.reference.linear_attention`.

    Args:
        q: queries (..., N_q, D), any strides; float32, bfloat16, float16 or float64. Under autocast q, k and v
            are cast to its dtype.
        k: keys (..., N_k, D); leading dimensions equal those of q, they are not broadcast.
        v: values (..., N_k, E).
        eps: lower bound of the denominator, positive. Where it is active, no gradient flows into z·q.

    Returns:
        (..., N_q, E), contiguous, in the dtype of the inputs (after autocast); a list of these for lists.

    Raises:
        TypeError: if an argument is no tensor or list of tensors, or dtypes differ or are not supported.
        ValueError: if shapes, devices or lengths of lists do not fit, or an argument is empty.
        BackendUnavailable: if a forced backend cannot run the call.
        NotImplementedError: from a second derivative, a forward-mode one, or a transform of `torch.func` (`grad`,
            `vmap`, …), except on the backend `reference`.
    """
    queries, keys, values = _entries("q", q), _entries("k", k), _entries("v", v)
    single = isinstance(q, Tensor)
    if any(isinstance(x, Tensor) != single for x in (k, v)):
        raise TypeError("q, k, v: got tensors and lists of tensors, expected three of one kind")
    queries, keys, values = map(to_autocast_dtype, (queries, keys, values))
    backend = resolve(OPERATOR, _checked_call(queries, keys, values, eps))
    if backend == "reference":
        entries = zip(queries, keys, values, strict=True)
        outputs = [reference(*entry, eps=eps) for entry in entries]
    else:
        refuse_forward_mode("linear_attention", *queries, *keys, *values)
        outputs, _ = call_fused("linear_attention", _forward, queries, keys, values, eps, backend)
    return outputs[0] if single else outputs


@custom_operator("linear_attention")
def _forward(
    q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor], eps: float, backend: str
) -> tuple[list[Tensor], list[Tensor]]:
    with kernel_scope(q[0]):
        return OPERATOR.implementation(backend).forward(q, k, v, eps)


@custom_operator("linear_attention_backward")
def _backward(
    grad: Sequence[Tensor],
    q: Sequence[Tensor],
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    states: Sequence[Tensor],
    eps: float,
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    with kernel_scope(q[0]):
        return OPERATOR.implementation(backend).backward(grad, q, k, v, states, eps)


@_forward.register_fake
def _(
    q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor], eps: float, backend: str
) -> tuple[list[Tensor], list[Tensor]]:
    sums = torch.float64 if q[0].dtype == torch.float64 else torch.float32
    outputs = [x.new_empty((*x.shape[:-1], y.shape[-1])) for x, y in zip(q, v, strict=True)]
    states = [x.new_empty((*x.shape[:-2], y.shape[-1] + 1, x.shape[-1]), dtype=sums) for x, y in zip(q, v, strict=True)]
    return outputs, states


@_backward.register_fake
def _(
    grad: Sequence[Tensor],
    q: Sequence[Tensor],
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    states: Sequence[Tensor],
    eps: float,
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    dq, dk, dv = ([x.new_empty(x.shape) for x in tensors] for tensors in (q, k, v))
    return dq, dk, dv


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], list[Tensor]]) -> None:
    q, k, v, ctx.eps, ctx.backend = inputs
    ctx.entries = len(q)
    ctx.mark_non_differentiable(*output[1])
    ctx.set_materialize_grads(False)  # no zeros in place of gradients of the states
    ctx.save_for_backward(*q, *k, *v, *output[1])


def _differentiate(ctx: Any, grad: list[Tensor | None], _: Any) -> tuple[Any, ...]:
    n, saved = ctx.entries, ctx.saved_tensors
    q, k, v, states = (list(saved[i * n : (i + 1) * n]) for i in range(4))
    given = [x.new_zeros((*x.shape[:-1], y.shape[-1])) if g is None else g for g, x, y in zip(grad, q, v, strict=True)]
    return (*call_fused("linear_attention", _backward, given, q, k, v, states, ctx.eps, ctx.backend), None, None)


_forward.register_autograd(_differentiate, setup_context=_keep)
refuse_second_derivative(_backward, "linear_attention")


def _entries(name: str, tokens: Tensor | Sequence[Tensor]) -> list[Tensor]:
    entries = [tokens] if isinstance(tokens, Tensor) else tokens
    check_list(name, entries, "a tensor or a list of tensors")
    return list(entries)


def _check(q: list[Tensor], k: list[Tensor], v: list[Tensor], eps: float) -> None:
    if not len(q) == len(k) == len(v) or not q:
        raise ValueError(f"q, k, v: got {len(q)}, {len(k)} and {len(v)} entries, expected equal numbers, not 0")
    check_positive(eps=eps)
    first, values = q[0], v[0]
    check_floating("q", first)
    for i, entry in enumerate(zip(q, k, v, strict=True)):
        for name, x in zip("qkv", entry, strict=True):
            if x.dtype != first.dtype:
                raise TypeError(f"{name}[{i}]: got {x.dtype}, expected {first.dtype} as in q")
            if x.device != first.device:
                raise ValueError(f"{name}[{i}]: got a tensor on {x.device}, expected {first.device} as in q")
            if x.ndim < 2 or 0 in x.shape:
                raise ValueError(f"{name}[{i}]: got shape {tuple(x.shape)}, expected (..., N, channels), not empty")
        _check_shapes(i, *entry, first.shape[-1], values.shape[-1])


def _check_shapes(i: int, q: Tensor, k: Tensor, v: Tensor, channels: int, values: int) -> None:
    leading = tuple(q.shape[:-2])
    if q.shape[-1] != channels:
        raise ValueError(f"q[{i}]: got {q.shape[-1]} channels, expected {channels} as in the first entry")
    if tuple(k.shape) != (*leading, k.shape[-2], channels):
        raise ValueError(f"k[{i}]: got shape {tuple(k.shape)}, expected {(*leading, 'N_k', channels)}")
    if tuple(v.shape) != (*leading, k.shape[-2], values):
        raise ValueError(f"v[{i}]: got shape {tuple(v.shape)}, expected {(*leading, k.shape[-2], values)}")


def _call(q: Tensor | Sequence[Tensor], k: Any, v: Tensor | Sequence[Tensor], **_: Any) -> Call:
    queries, values = _entries("q", q), _entries("v", v)
    channels = max(queries[0].shape[-1], values[0].shape[-1])
    tokens = sum(x.numel() // x.shape[-1] for x in queries)
    return Call(queries[0].device.type, queries[0].dtype, channels, tokens)


@remembered
def _checked_call(q: list[Tensor], k: list[Tensor], v: list[Tensor], eps: float) -> Call:
    _check(q, k, v, eps)
    return _call(q, k, v)


OPERATOR = register(
    Operator(
        name="linear_attention",
        function=linear_attention,
        reference=reference,
        samples=SAMPLES,
        describe=_call,
        backends=("aten", "triton", "cuda"),
        limits={"cuda": cuda_limit},
    )
)
