"""Linear attention in torch operators: two reductions over tokens, two maps, and nothing kept but the inputs.

The states of an entry are one tensor (..., E + 1, D): the rows of S = Σ v kᵀ, then z = Σ k. For half precision
they are summed and kept in float32, since S overflows float16 on ordinary data; there the tokens are worked off
in pieces, in a fixed order, so that no map is ever copied to float32 whole.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def forward(q: list[Tensor], k: list[Tensor], v: list[Tensor], eps: float) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs (..., N_q, E) in the dtype of the inputs, and states, of each entry."""
    entries = [_forward(*entry, eps) for entry in zip(q, k, v, strict=True)]
    return [output for output, _ in entries], [state for _, state in entries]


def backward(
    grad: list[Tensor], q: list[Tensor], k: list[Tensor], v: list[Tensor], states: list[Tensor], eps: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of q, k and v of each entry, in the dtype of the inputs."""
    entries = [_backward(*entry, eps) for entry in zip(grad, q, k, v, states, strict=True)]
    return [dq for dq, _, _ in entries], [dk for _, dk, _ in entries], [dv for _, _, dv in entries]


def _forward(q: Tensor, k: Tensor, v: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    output = q.new_empty(*q.shape[:-1], v.shape[-1])
    state = q.new_zeros(*q.shape[:-2], v.shape[-1] + 1, q.shape[-1], dtype=_sum_dtype(q))
    q, k, v, out = _batched(q), _batched(k), _batched(v), _batched(output)
    sums, normaliser = _split(state)
    for piece in _pieces(k):
        key, value = _wide(k[:, piece]), _wide(v[:, piece])
        sums.baddbmm_(value.mT, key)
        normaliser.add_(key.sum(-2, keepdim=True))
    for piece in _pieces(q):
        query = _wide(q[:, piece])
        denominator = _times_row(query, normaliser).clamp_(min=eps)
        torch.div(_product(query, sums.mT, out[:, piece]), denominator, out=out[:, piece])
    return output, state


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    # With d = max(z·q, eps) and g the gradient of the output: dn = g/d, dd = −(g·o)/d where the clamp is not
    # active, dq = Sᵀdn + dd z, dS = Σ dn qᵀ, dz = Σ dd q, dv = dS k, dk = dSᵀv + dz.
    # Since g·o = (Sᵀdn)·q, the product that dq needs anyway stands in for the output.
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    dq_tokens, dk_tokens, dv_tokens = _batched(dq), _batched(dk), _batched(dv)
    grad, q, k, v = _batched(grad), _batched(q), _batched(k), _batched(v)
    sums, normaliser = _split(state)
    d_sums, d_normaliser = sums.new_zeros(sums.mT.shape), torch.zeros_like(normaliser)
    for piece in _pieces(q):
        query, gradient = _wide(q[:, piece]), _wide(grad[:, piece])
        unclamped = _times_row(query, normaliser)
        denominator = unclamped.clamp(min=eps)
        d_numerator = gradient / denominator
        d_query = dq_tokens[:, piece]
        weighted = _product(d_numerator, sums, d_query)
        d_denominator = (weighted * query).sum(-1, keepdim=True).div_(denominator).neg_()
        d_denominator.masked_fill_(unclamped < eps, 0)
        torch.addcmul(weighted, d_denominator, normaliser, out=d_query)
        d_sums.baddbmm_(query.mT, d_numerator)
        d_normaliser.baddbmm_(d_denominator.mT, query)
    for piece in _pieces(k):
        key, value = _wide(k[:, piece]), _wide(v[:, piece])
        d_key, d_value = dk_tokens[:, piece], dv_tokens[:, piece]
        torch.add(_product(value, d_sums.mT, d_key), d_normaliser, out=d_key)
        d_value.copy_(_product(key, d_sums, d_value))
    return dq, dk, dv


def _product(left: Tensor, right: Tensor, place: Tensor) -> Tensor:
    """left · right, computed in `place` if that has the dtype, so that it is not copied there later."""
    return torch.bmm(left, right, out=place if place.dtype == left.dtype else None)


def _batched(tokens: Tensor) -> Tensor:
    """(..., N, C) as (B, N, C): a view, unless the strides of the leading dimensions forbid it."""
    return tokens.reshape(-1, *tokens.shape[-2:])


def _split(state: Tensor) -> tuple[Tensor, Tensor]:
    """S (B, E, D) and z (B, 1, D), views of the states."""
    return _batched(state).split((state.shape[-2] - 1, 1), dim=1)


def _sum_dtype(tokens: Tensor) -> torch.dtype:
    return torch.float64 if tokens.dtype == torch.float64 else torch.float32


def _wide(piece: Tensor) -> Tensor:
    """A piece in the dtype of sums: itself, unless it is in half precision."""
    return piece.to(_sum_dtype(piece))


def _pieces(tokens: Tensor) -> Iterator[slice]:
    """Slices of the tokens (B, N, C): everything, or in half precision what a cache holds when widened."""
    batch, count, channels = tokens.shape
    length = count
    if tokens.dtype != _sum_dtype(tokens):
        elements = 2**18 if tokens.device.type == "cpu" else 2**25
        length = max(4 * channels, elements // (batch * channels))
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))


def _times_row(tokens: Tensor, row: Tensor) -> Tensor:
    """tokens (B, N, C) · row (B, 1, C) as (B, N, 1), in the order in which the tokens lie in memory."""
    if tokens.stride(-2) == 1:
        return torch.bmm(row, tokens.mT).mT
    # Where neither dimension is dense, torch sums the other product channel by channel, four times less exactly.
    return torch.bmm(tokens, row.mT)
