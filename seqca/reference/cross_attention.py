"""Cross attention between maps, from their pixels to what each gathered: plain mathematics."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seqca.pairs import Branch, Pair

from .batch_norm import batch_moments, batch_norm
from .linear_attention import linear_attention
from .softplus import softplus


def cross_attention(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    shifts: Sequence[Tensor],
    branches: Sequence[Branch],
    pairs: Sequence[Pair],
    *,
    running_means: Sequence[Tensor] | None = None,
    running_vars: Sequence[Tensor] | None = None,
    norm_eps: float = 1e-5,
    eps: float = 1e-12,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What each target gathers from its sources (Kim et al. 2022, section 2.2).

    q, k = softplus(BN(W₂ relu(BN(W₁ x)))) and v = relu(BN(W x)), then `linear_attention` per image and pair.

    Args:
        maps: (B, C_m, H_m, W_m).
        weights: of the layers of all branches, one branch after the other: projection (C, C_m, 1, 1), hidden
            (n·C, C_in, 1, 1), features (n·C, C, 1, 1) in n groups, values (keys·C, C_in, 1, 1), where
            n = queries + keys and C_in is C behind a projection, else C_m.
        scales, shifts: of the batch norms, layer by layer.
        branches, pairs: what is computed.
        running_means, running_vars: what layers are normalised by; without them the statistics of the batch.
        norm_eps: added to variances.
        eps: lower bound of the denominators.

    Returns:
        By branch that has queries, (B, n·C, H, W): what its n pairs gathered, in the order of the pairs. By layer mean
        and unbiased variance, without gradient: the running ones where these are given.
    """
    means: list[Tensor] = []
    variances: list[Tensor] = []

    def layer(x: Tensor, groups: int = 1) -> Tensor:
        i = len(means)
        y = F.conv2d(x, weights[i], groups=groups)
        if running_means is not None and running_vars is not None:
            mean, variance = running_means[i], running_vars[i]
            normalised = batch_norm(y, scales[i], shifts[i], norm_eps, mean, variance)
        else:
            mean, variance = batch_moments(y.detach())
            normalised = batch_norm(y, scales[i], shifts[i], norm_eps)
        means.append(mean)
        variances.append(variance)
        return normalised

    queries, keys, values = [], [], []
    for branch in branches:
        blocks = branch.queries + branch.keys
        x = layer(maps[branch.map]) if branch.projected else maps[branch.map]
        features = softplus(layer(F.relu(layer(x)), groups=blocks)).chunk(blocks, 1)
        queries.append(features[: branch.queries])
        keys.append(features[branch.queries :])
        values.append(F.relu(layer(x)).chunk(branch.keys, 1) if branch.keys else ())

    attended = []
    for target, branch in enumerate(branches):
        if branch.queries:
            own = [pair for pair in pairs if pair.target == target]
            gathered = [
                _attend(queries[target][query], keys[source][key], values[source][key], eps)
                for _, query, source, key in own
            ]
            attended.append(torch.cat(gathered, 1))
    return attended, means, variances


def _attend(q: Tensor, k: Tensor, v: Tensor, eps: float) -> Tensor:
    """Maps (B, C, H, W) of queries and (B, C, H', W') of keys and values → (B, C, H, W)."""
    tokens = [x.flatten(2).mT for x in (q, k, v)]
    return linear_attention(*tokens, eps=eps).mT.unflatten(2, q.shape[2:])
