"""Cross attention in torch operators, piece by piece; backward computes all between the maps and the states again.

First layers, values and projections take their batch norms from the moments of the maps (`.folding`); mean and
variance of the second layers come from a pass over the tokens. With d = u − mean(u) of a second layer u = W₂ h and the
gradient s of its normalised, scaled and shifted form, r = Σ s and t = Σ s d over T tokens, the gradient of u is
γ/σ (s − r/T − d t/(σ² T)).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqca.pairs import Branch, Pair

from ..shared.branches import branches_of, pairs_of
from ..shared.synchronisation import merged_covariance, merged_moments, summed
from .folding import MapMoments
from .layers import Layers, ParameterGradients, Sums
from .projections import BranchView, Features, FirstLayer, Piece, centred, pieces, times, with_shift
from .rectifier import through_relu
from .softplus import softplus


def forward(
    maps: list[Tensor],
    weights: list[Tensor],
    scales: list[Tensor],
    shifts: list[Tensor],
    branches: list[int],
    pairs: list[int],
    running_means: list[Tensor],
    running_vars: list[Tensor],
    norm_eps: float,
    eps: float,
    group: str,
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor], Tensor, list[Tensor]]:
    """Attended maps; means and unbiased variances; and for backward moments of the maps, 1/σ, and states.

    Means, variances and 1/σ are those of all layers one after the other, in float64. A map's moments are its mean and
    below it its covariance, (C_m + 1, C_m), in float64; in evaluation a centre and zeros. A branch's states
    (keys, B, C + 1, C) are S and below it z, in float32, or float64 for float64.
    """
    structure, links, training = branches_of(branches), pairs_of(pairs), not running_means
    wide = torch.promote_types(maps[0].dtype, torch.float32)
    tokens = [x.flatten(2) for x in maps]
    layers = Layers(structure, weights, scales, shifts, training, wide)
    if training:
        layers.unknown()
        moments = [_moments(x, group) for x in tokens]
    else:
        layers.running(running_means, running_vars, norm_eps)
        moments = [_centre(x) for x in tokens]
    every = [_read(x, kept, training, group) for x, kept in zip(tokens, moments, strict=True)]
    views, corrections = [], []
    for i, branch in enumerate(structure):
        x, own = tokens[branch.map], every[branch.map]
        view = BranchView(layers, i, layers.folds(i, own, norm_eps if training else None), x, own, wide)
        views.append(view)
        if training:
            total, mean, squares = merged_moments(*view.feature_moments(), group)
            layers.set_statistics(layers.places[i].features, mean, squares / total, norm_eps)
            corrections += [total / (total - 1)] * layers.count(i)
    variances = [v * c for v, c in zip(layers.variances, corrections, strict=True)] if training else layers.variances
    sums = [_states(view) for view, branch in zip(views, structure, strict=True) if branch.keys]
    states = _by_branch(structure, sums)
    attended = []
    for i, (view, branch) in enumerate(zip(views, structure, strict=True)):
        if branch.queries:
            own_pairs = [pair for pair in links if pair.target == i]
            x = maps[branch.map]
            result = x.new_empty(x.shape[0], len(own_pairs) * view.channels, *x.shape[2:])
            _attend(view, own_pairs, states, eps, result.flatten(2))
            attended.append(result)
    return attended, torch.cat(layers.means), torch.cat(variances), moments, torch.cat(layers.inverse), sums


def backward(
    grads: list[Tensor],
    maps: list[Tensor],
    weights: list[Tensor],
    scales: list[Tensor],
    shifts: list[Tensor],
    branches: list[int],
    pairs: list[int],
    means: Tensor,
    moments: list[Tensor],
    inverse: Tensor,
    sums: list[Tensor],
    eps: float,
    training: bool,
    group: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of maps, weights, scales and shifts, in their dtypes."""
    structure, links = branches_of(branches), pairs_of(pairs)
    wide = torch.promote_types(maps[0].dtype, torch.float32)
    tokens = [x.flatten(2) for x in maps]
    layers = Layers(structure, weights, scales, shifts, training, wide)
    layers.kept(means, inverse)
    gradients = ParameterGradients(layers)
    d_tokens = [x.new_zeros(x.shape, dtype=wide) for x in tokens]
    own = [_read(x, kept, training, group) for x, kept in zip(tokens, moments, strict=True)]
    folds = [layers.folds(i, own[branch.map]) for i, branch in enumerate(structure)]
    views = [
        BranchView(layers, i, folds[i], tokens[branch.map], own[branch.map], wide) for i, branch in enumerate(structure)
    ]
    passes = [
        _Backward(view, d_tokens[branch.map], training, group) for view, branch in zip(views, structure, strict=True)
    ]
    states = _by_branch(structure, sums)
    d_states = _by_branch(structure, [torch.zeros_like(x) for x in sums])
    remaining = iter(grads)
    for i, branch in enumerate(structure):
        if branch.queries:
            own_pairs = [pair for pair in links if pair.target == i]
            passes[i].targets(next(remaining).flatten(2), own_pairs, states, d_states, eps)
    d_covariances = [torch.zeros_like(x.covariance) for x in own]
    for i, branch in enumerate(structure):
        if branch.keys:
            passes[i].sources(d_states[i])
        gradients.put(layers.places[i].features, *passes[i].features())
        d_covariances[branch.map] += gradients.put_folded(i, folds[i], own[branch.map], *passes[i].folded())
    if training:
        for x, dx, centre, d_covariance in zip(tokens, d_tokens, own, d_covariances, strict=True):
            count, d_sum = x.shape[0] * x.shape[2], dx.sum((0, 2), dtype=torch.float64)
            total, d_sum, d_flat = summed(count, d_sum, d_covariance.flatten(), group)
            affine = with_shift(2 / total * d_flat.view_as(d_covariance), -d_sum / total)
            for piece in pieces(x):  # in float64, where little remains of the sum
                piece.of(dx).add_(times(affine, centred(piece.of(x), centre.mean)))
    d_maps = [dx.view(x.shape).to(x.dtype) for x, dx in zip(maps, d_tokens, strict=True)]
    return d_maps, gradients.weights, gradients.scales, gradients.shifts


def _moments(x: Tensor, group: str) -> Tensor:
    """Mean and covariance of the tokens (B, C, N) of all processes, one above the other (C + 1, C), in float64."""
    count = x.shape[0] * x.shape[2]
    mean = x.sum((0, 2), dtype=torch.float64) / count
    scatter = mean.new_zeros(len(mean), len(mean))
    for piece in pieces(x):
        deviation = piece.of(x).double() - mean[:, None]
        scatter += torch.bmm(deviation, deviation.mT).sum(0)
    _, mean, covariance = merged_covariance(count, mean, scatter / count, group)
    return torch.cat([mean[None], covariance])


def _read(x: Tensor, kept: Tensor, training: bool, group: str) -> MapMoments:
    """The moments of the tokens (B, C, N) that are kept in one tensor, see `_moments` and `_centre`."""
    mean, rest = kept[0], torch.zeros_like(kept[0])
    # A mean of other dtypes has digits to spare. Of several processes float64 has no better one.
    if training and not group and x.dtype == torch.float64:
        for piece in pieces(x):
            rest += (piece.of(x) - mean[:, None]).sum((0, 2))
    return MapMoments(mean, kept[1:], rest / (x.shape[0] * x.shape[2]))


def _centre(x: Tensor) -> Tensor:
    """In place of the moments of the tokens (B, C, N), where they are not needed: the mean of some, and zeros.

    Sums over tokens less their mean cancel less than over the tokens, which may all be far from zero.
    """
    some = next(pieces(x)).of(x)
    moments = x.new_zeros(x.shape[1] + 1, x.shape[1], dtype=torch.float64)
    moments[0] = some.mean((0, 2), dtype=torch.float64)
    return moments


def _by_branch(branches: Sequence[Branch], sums: Sequence[Tensor]) -> list[Tensor]:
    """States of the branches that have keys, with an empty tensor in place of those of the others."""
    remaining = iter(sums)
    return [next(remaining) if branch.keys else sums[0].new_empty(0) for branch in branches]


def _states(view: BranchView) -> Tensor:
    """(keys, B, C + 1, C): S and below it z."""
    features, values = view.features_of_pieces(view.keys), view.values()
    channels, blocks = view.channels, view.keys.stop - view.keys.start
    sums = view.tokens.new_zeros(blocks, len(view.tokens), channels + 1, channels, dtype=view.dtype)
    for piece, x in view.pieces():
        k = features(x)
        v = values(x).view(k.shape)
        place = sums[:, piece.images].transpose(0, 1)
        place[:, :, :-1] += torch.matmul(v, k.mT)
        place[:, :, -1] += k.sum(-1)
    return sums


def _attend(view: BranchView, pairs: Sequence[Pair], states: Sequence[Tensor], eps: float, result: Tensor) -> None:
    """Writes what the pairs of a branch gather to (B, pairs·C, N)."""
    features = view.features_of_pieces(view.queries)
    for piece, x in view.pieces():
        q = features(x)
        for pair, place in zip(pairs, piece.of(result).split(view.channels, 1), strict=True):
            both = torch.bmm(states[pair.source][pair.key, piece.images], q[:, pair.query])
            numerator, denominator = both.split((view.channels, 1), 1)
            torch.div(numerator, denominator.clamp_(min=eps), out=place)


class _Backward:
    """The passes of a branch over its map, and the sums that they find."""

    def __init__(self, view: BranchView, d_tokens: Tensor, training: bool, group: str) -> None:
        self._view, self._d_tokens, self._training, self._group = view, d_tokens, training, group
        blocks, channels, inputs = view.all.stop, view.channels, view.tokens.shape[1]

        def zeros(*shape: int) -> Tensor:
            return d_tokens.new_zeros(shape)

        def first_sums(blocks: int) -> Sums:
            # The gradient of a projection sums them over the rows of a layer: their errors may all have one sign there.
            dtype = torch.float64 if view.projected else view.dtype
            return Sums(zeros(blocks * channels, inputs).to(dtype), zeros(blocks * channels).to(dtype))

        self._hidden_sums, self._value_sums = first_sums(blocks), first_sums(view.keys.stop - view.keys.start)
        self._d_weight = zeros(blocks, channels, channels)
        self._d_scale, self._d_shift = (zeros(blocks, channels, 1).double() for _ in range(2))

    def targets(
        self, grad: Tensor, pairs: Sequence[Pair], states: Sequence[Tensor], d_states: Sequence[Tensor], eps: float
    ) -> None:
        """Goes from gradients of the attended map (B, pairs·C, N) to those of the states and of the queries' layers."""
        view = self._view
        hidden, features = view.hidden(view.queries), view.features(view.queries)
        sums = _FeatureSums(view, view.queries)
        for piece, x in view.pieces():
            h = hidden(x)
            deviation = features.centred(h)
            normalised = features.normalised(deviation)
            q = softplus(normalised)
            d_q = torch.zeros_like(q)  # blocks may serve several pairs
            for pair, g in zip(pairs, piece.of(grad).split(view.channels, 1), strict=True):
                state, query = states[pair.source][pair.key, piece.images], q[:, pair.query]
                both = torch.bmm(state, query)
                numerator, unclamped = both.split((view.channels, 1), 1)
                denominator = unclamped.clamp(min=eps)
                d_numerator = torch.div(g, denominator)
                d_denominator = numerator.mul_(d_numerator).sum(1, keepdim=True).div_(denominator).neg_()
                d_denominator.masked_fill_(unclamped < eps, 0)
                torch.cat([d_numerator, d_denominator], 1, out=both)
                d_states[pair.source][pair.key, piece.images].baddbmm_(both, query.mT)
                d_q[:, pair.query].baddbmm_(state.mT, both)
            sums.add(h, d_q.mul_(normalised.sigmoid_()), deviation)
        self._features_backward(sums, hidden, features)

    def sources(self, d_states: Tensor) -> None:
        """Goes from gradients of the states (keys, B, C + 1, C) to those of the keys' and the values' layers."""
        view = self._view
        hidden, features, values = view.hidden(view.keys), view.features(view.keys), view.values()
        sums = _FeatureSums(view, view.keys)
        for piece, x in view.pieces():
            h = hidden(x)
            deviation = features.centred(h)
            normalised = features.normalised(deviation)
            k, v = softplus(normalised), values(x)
            d_sums, d_normaliser = d_states[:, piece.images].transpose(0, 1).split((view.channels, 1), 2)
            d_k = torch.matmul(d_sums.mT, v.view(k.shape)).add_(d_normaliser.mT)
            d_v = torch.matmul(d_sums, k).view(v.shape)
            self._first_backward(piece, x, values, through_relu(d_v, v, out=d_v), self._value_sums)
            sums.add(h, d_k.mul_(normalised.sigmoid_()), deviation)
        self._features_backward(sums, hidden, features)

    def features(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the second layer's weight, scale and shift."""
        return self._d_weight, self._d_scale.flatten(), self._d_shift.flatten()

    def folded(self) -> tuple[Sums, Sums | None]:
        """The sums of the first layer and of the values."""
        values = self._exact(self._value_sums) if len(self._value_sums.total) else None
        return self._exact(self._hidden_sums), values

    def _exact(self, sums: Sums) -> Sums:
        """In float64, R less what rounding has left of the mean: gradients of all tokens may be alike."""
        total = sums.total.double()
        return Sums(sums.outer.double().addr_(total, self._view.remainder, alpha=-1), total)

    def _features_backward(self, sums: "_FeatureSums", hidden: FirstLayer, features: Features) -> None:
        """Goes from the gradients behind the batch norm of a second layer to those of the map."""
        view, blocks = self._view, sums.blocks
        self._d_shift[blocks] = sums.total
        self._d_scale[blocks] = sums.products * features.inverse
        shift = tilt = None
        if self._training:
            count = view.tokens.shape[0] * view.tokens.shape[2]
            total, shifts, products = summed(count, sums.total.flatten(), sums.products.flatten(), self._group)
            shift = (-shifts / total).view_as(features.inverse).to(view.dtype)
            tilt = (-products / total).view_as(features.inverse).mul_(features.inverse.square()).to(view.dtype)
        rows = slice(blocks.start * view.channels, blocks.stop * view.channels)
        d_weight, own_sums = self._d_weight[blocks], Sums(*(x[rows] for x in self._hidden_sums))
        for (piece, x), (h, delta, deviation) in zip(view.pieces(), sums.of_pieces, strict=True):
            if shift is not None and tilt is not None:
                delta += deviation.mul_(tilt).add_(shift)
            d_weight += torch.matmul(delta, h.view(delta.shape).mT).sum(0)
            d_hidden = torch.matmul(features.scaled.mT, delta).view(h.shape)
            self._first_backward(piece, x, hidden, through_relu(d_hidden, h, out=d_hidden), own_sums)
        d_weight *= features.scale

    def _first_backward(self, piece: Piece, x: Tensor, layer: FirstLayer, gradient: Tensor, sums: Sums) -> None:
        """Goes from the gradient s of a folded layer to that of the map, and its sums Σ s (x − m)ᵀ and Σ s."""
        s = gradient.to(sums.outer.dtype)
        sums.outer.add_(torch.bmm(s, x[:, :-1].to(s.dtype).mT).sum(0))
        sums.total.add_(s.sum(2).sum(0))  # in a tree, where a product with ones adds up one by one
        piece.of(self._d_tokens).baddbmm_(layer.matrix.T.expand(len(x), -1, -1), gradient)


class _FeatureSums:
    """Gradients behind the batch norms of blocks of queries or keys, and their sums over the tokens."""

    def __init__(self, view: BranchView, blocks: slice) -> None:
        self.blocks = blocks
        self.of_pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        """h (b, blocks·C, n), s and d, (b, blocks, C, n)."""
        shape = (blocks.stop - blocks.start, view.channels, 1)
        self.total, self.products = (view.tokens.new_zeros(shape, dtype=torch.float64) for _ in range(2))
        """Σ s and Σ s d, (blocks, C, 1)."""

    def add(self, hidden: Tensor, gradient: Tensor, deviation: Tensor) -> None:
        """Adds the gradients of the next piece."""
        self.of_pieces.append((hidden, gradient, deviation))
        self.total += gradient.sum(3, keepdim=True).sum(0)
        self.products += gradient.mul(deviation).sum(3, keepdim=True).sum(0)
