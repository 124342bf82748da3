"""Queries, keys and values of a branch of `cross_attention` on pieces of its map, in torch operators.

Tokens come last: a piece is (images, channels, tokens). All blocks of a branch are rows of one product with the piece.
Below its channels a piece has a row of ones, through which the product adds its shift.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .folding import Fold, MapMoments
from .layers import BranchFold, Layers
from .softplus import softplus

_CPU_TOKENS = 6400
"""Tokens of a piece, which with its hidden maps is to stay in the cache."""

_GPU_TOKENS = 2**18


class Piece(NamedTuple):
    """Some tokens of some images."""

    images: slice
    tokens: slice

    def of(self, x: Tensor) -> Tensor:
        """The piece of a tensor (B, …, N)."""
        return x[self.images, ..., self.tokens]


def pieces(x: Tensor) -> Iterator[Piece]:
    """All of x (B, C, N): parts of an image, or several images."""
    images, _, tokens = x.shape
    limit = _CPU_TOKENS if x.device.type == "cpu" else _GPU_TOKENS
    together = max(1, limit // tokens)
    parts = -(-tokens // limit)
    length = -(-tokens // parts)
    for image in range(0, images, together):
        for token in range(0, tokens, length):
            yield Piece(slice(image, min(image + together, images)), slice(token, min(token + length, tokens)))


def centred(x: Tensor, centre: Tensor) -> Tensor:
    """A piece of a map (b, C, n) less its centre (C,), in the dtype of the centre, and ones: (b, C + 1, n)."""
    result = centre.new_empty(x.shape[0], x.shape[1] + 1, x.shape[2])
    torch.sub(x, centre[:, None], out=result[:, :-1])
    result[:, -1] = 1
    return result


def with_shift(matrix: Tensor, shift: Tensor) -> Tensor:
    """A matrix (rows, C_m) and what is added behind it (rows,), as one matrix (rows, C_m + 1) of a piece."""
    return torch.cat([matrix, shift[:, None]], 1)


def times(matrix: Tensor, x: Tensor) -> Tensor:
    """(rows, columns) · (b, columns, n) = (b, rows, n)."""
    return torch.bmm(matrix.expand(len(x), -1, -1), x)


class FirstLayer(NamedTuple):
    """Rows of a folded layer, and the ReLU behind it."""

    extended: Tensor
    """The matrix and what is added behind it, (rows, C_m + 1)."""

    @classmethod
    def of(cls, layer: Fold, remainder: Tensor, dtype: torch.dtype) -> "FirstLayer":
        """All rows, in the dtype of the pieces.

        Pieces are centred by what the remainder (C_m,) is missing from. It is alike for all tokens: where they are few
        or vary little, no other error of the mean of what the layer computes is as large.
        """
        scaled = layer.scaled(dtype)
        return cls(with_shift(scaled, (layer.offset - torch.mv(scaled.double(), remainder)).to(dtype)))

    @property
    def matrix(self) -> Tensor:
        """(rows, C_m)."""
        return self.extended[:, :-1]

    def __call__(self, x: Tensor) -> Tensor:
        """A piece (b, C_m + 1, n) → (b, rows, n)."""
        return times(self.extended, x).relu_()


class Features:
    """Blocks of the second layer of queries and keys, its batch norm and softplus.

    Args:
        weight: (n·C, C, 1, 1).
        mean, inverse: what its batch norm normalises by, (n·C,), in float64.
        norm_scale, norm_shift: γ and β.
        blocks: those of the n that are computed.
        dtype: of the pieces.
    """

    def __init__(
        self,
        weight: Tensor,
        mean: Tensor,
        inverse: Tensor,
        norm_scale: Tensor,
        norm_shift: Tensor,
        blocks: slice,
        dtype: torch.dtype,
    ) -> None:
        mean, inverse, norm_scale, norm_shift = (
            x.double().view(-1, weight.shape[1], 1)[blocks] for x in (mean, inverse, norm_scale, norm_shift)
        )
        self.mean, self.inverse, self.scale = mean, inverse, norm_scale * inverse
        """Mean, 1/σ and γ/σ, (blocks, C, 1), in float64."""
        self.weight = blocked(weight)[blocks].to(dtype)
        """W₂, (blocks, C, C)."""
        self._negative_mean, self._slope, self._shift, self._offset = (
            x.to(dtype) for x in (-mean, self.scale, norm_shift, norm_shift - self.scale * mean)
        )

    @cached_property
    def scaled(self) -> Tensor:
        """γ/σ W₂, (blocks, C, C)."""
        return (self.scale * self.weight).to(self.weight.dtype)

    def __call__(self, hidden: Tensor) -> Tensor:
        """(b, blocks·C, n) → the features (b, blocks, C, n)."""
        return softplus(product(self.scaled, hidden, self._offset))

    def centred(self, hidden: Tensor) -> Tensor:
        """(b, blocks·C, n) → what is normalised less its mean, (b, blocks, C, n)."""
        return product(self.weight, hidden, self._negative_mean)

    def normalised(self, deviation: Tensor, excess: Tensor | None = None) -> Tensor:
        """What `centred` returned → what softplus is applied to; `excess`, (blocks, C, 1), is added to the former."""
        shift = self._shift if excess is None else torch.addcmul(self._shift, self._slope, excess)
        return torch.mul(deviation, self._slope).add_(shift)


def blocked(weight: Tensor) -> Tensor:
    """(n·C, C, 1, 1) → (n, C, C)."""
    return weight.reshape(-1, weight.shape[1], weight.shape[1])


def product(weight: Tensor, x: Tensor, shift: Tensor) -> Tensor:
    """Block by block weight (blocks, C, C) times x (b, blocks·C, n) plus shift (blocks, C, 1): (b, blocks, C, n)."""
    images, blocks = len(x), len(weight)
    x = x.reshape(images * blocks, -1, x.shape[-1])
    repeated = weight.expand(images, -1, -1, -1).flatten(0, 1)
    result = torch.bmm(repeated, x).view(images, blocks, -1, x.shape[-1])
    return result.add_(shift)


class BranchView:
    """What a branch makes of the pieces of its map."""

    def __init__(
        self, layers: Layers, index: int, folds: BranchFold, tokens: Tensor, moments: MapMoments, dtype: torch.dtype
    ) -> None:
        branch = layers.branches[index]
        self.projected = branch.projected
        """Whether its layers read a projection of the map."""
        self.tokens = tokens
        """The map (B, C_m, N)."""
        self.all = slice(0, branch.queries + branch.keys)
        """Blocks of queries and keys."""
        self.queries, self.keys = slice(0, branch.queries), slice(branch.queries, branch.queries + branch.keys)
        self.dtype = dtype
        """The dtype of the pieces."""
        self._centre = moments.mean.to(dtype)
        self.remainder = moments.mean - self._centre.double() + moments.rest
        """What rounding has left of the mean, (C_m,), in float64."""
        self._layers, self._place = layers, layers.places[index]
        self._hidden = FirstLayer.of(folds.hidden, self.remainder, dtype)
        self._values = None if folds.values is None else FirstLayer.of(folds.values, self.remainder, dtype)
        self._only: tuple[Tensor, Tensor] | None = None
        """Of a small map what its second layer normalises less its mean (B, n, C, N), and that (n, C, 1)."""

    def pieces(self) -> Iterator[tuple[Piece, Tensor]]:
        """Pieces of the map, and what they hold, (b, C_m + 1, n)."""
        for piece in pieces(self.tokens):
            yield piece, centred(piece.of(self.tokens), self._centre)

    @property
    def channels(self) -> int:
        """C of a block."""
        return self._layers.weights[self._place.features].shape[1]

    def hidden(self, blocks: slice) -> FirstLayer:
        """The first layer of queries and keys."""
        rows = slice(blocks.start * self.channels, blocks.stop * self.channels)
        return FirstLayer(self._hidden.extended[rows])

    def features(self, blocks: slice) -> Features:
        """The second layer of queries and keys."""
        i, layers = self._place.features, self._layers
        norm = (layers.means[i], layers.inverse[i], layers.scales[i], layers.shifts[i])
        return Features(layers.weights[i], *norm, blocks, self.dtype)

    def features_of_pieces(self, blocks: slice) -> Callable[[Tensor], Tensor]:
        """From what a piece holds to its features (b, blocks, C, n)."""
        hidden, features = self.hidden(blocks), self.features(blocks)
        if self._only is None:
            return lambda x: features(hidden(x))
        deviation, mean = (x[..., blocks, :, :] for x in self._only)
        # The mean that is normalised by is that of all processes.
        excess = (mean - features.mean).to(self.dtype)
        return lambda _: softplus(features.normalised(deviation, excess))

    def values(self) -> FirstLayer:
        """The layer of values."""
        if self._values is None:
            raise ValueError("branch: got one without keys, expected one that is attended to")
        return self._values

    def feature_moments(self) -> tuple[int, Tensor, Tensor]:
        """Moments of what the second layer normalises: tokens; means and sums of squared deviations (n·C,).

        Of a map that is small enough for a piece on a CPU, what they are taken of is kept for `features_of_pieces`.
        """
        hidden = self.hidden(self.all)
        weight = blocked(self._layers.weights[self._place.features])
        exact, weight = weight.double(), weight.to(self.dtype)
        counts, means, squares = [], [], []
        small = len(self.tokens) * self.tokens.shape[2] <= _CPU_TOKENS
        for _, x in self.pieces():
            h = hidden(x)
            counts.append(h.shape[0] * h.shape[2])
            mean_hidden = h.sum(2).sum(0).double().view(len(weight), -1, 1) / counts[-1]
            means.append(torch.bmm(exact, mean_hidden))
            deviation = product(weight, h, -means[-1].to(self.dtype))
            squares.append((deviation.square() if small else deviation.square_()).sum(3).sum(0).double().flatten())
            if small:
                self._only = deviation, means[-1]
        return merged(counts, [mean.flatten() for mean in means], squares)


def merged(counts: list[int], means: list[Tensor], squares: list[Tensor]) -> tuple[int, Tensor, Tensor]:
    """Number of tokens, means, and sums of squared deviations from them, of parts together (Chan et al. 1983)."""
    total = sum(counts)
    mean = torch.stack([count * mean for count, mean in zip(counts, means, strict=True)]).sum(0) / total
    between = [count * (own - mean).square() for count, own in zip(counts, means, strict=True)]
    return total, mean, torch.stack([*squares, *between]).sum(0)
