"""Linear attention, the core of cross attention: plain mathematics."""

from torch import Tensor


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-12) -> Tensor:
    """Attention without softmax, whose cost is linear in the number of tokens.

    With S = Σ_n v_n k_nᵀ and z = Σ_n k_n over the source tokens n, the output at query m is
    S q_m / max(z·q_m, eps). The feature maps of q and k are applied by the caller (Kim et al. 2022, section 2.2).

    Args:
        q: queries (..., N_q, D), non-negative where the clamp is not to bite.
        k: keys (..., N_k, D).
        v: values (..., N_k, E).
        eps: lower bound of the denominator.

    Returns:
        (..., N_q, E).
    """
    state = v.mT @ k
    normaliser = k.sum(-2, keepdim=True).mT
    return (q @ state.mT) / (q @ normaliser).clamp(min=eps)
