"""Maps of several resolutions of one image, and sums of products with them at the finest one, tile by tile.

A 1×1 convolution commutes with bilinear upsampling: Σ up(X_i) W_i = Σ up(X_i W_i), with products at each level's own
resolution. Tokens come first, (h, w, channels). In a tile of rows × columns at the finest level the sum is one product
of `left` (tokens of the tile, [X_0, 1, A_1, A_2, …]) and [W_0; shift; V_1 Y_1; V_2 Y_2; …], where Y_i = X_i W_i, and
V_i are the rows, A_i the columns of the interpolation between level i and the tile. The adjoint is the product with
`left` transposed: sums over tokens for the finest level, and for the others what their cells gather.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..shared.concatenation import Concatenation
from .interpolation import Band, bands, interpolation


def image_levels(
    maps: Sequence[Tensor], image: int, concatenation: Concatenation, centre: Sequence[Tensor]
) -> list[Tensor]:
    """The maps of an image less their centre (c_i), by level, (h, w, c_i), in the dtype of the centre."""
    levels = []
    for size, members, middle in zip(concatenation.sizes, concatenation.members, centre, strict=True):
        level = middle.new_empty(*size, len(middle))
        channels = [concatenation.channels[i] for i in members]
        for i, place, c in zip(members, level.split(channels, -1), middle.split(channels), strict=True):
            torch.sub(maps[i][image].permute(1, 2, 0), c, out=place)
        levels.append(level)
    return levels


def image_maps(levels: Sequence[Tensor], image: int, concatenation: Concatenation, results: Sequence[Tensor]) -> None:
    """Put levels (h, w, c_i) of an image into tensors like the maps: the inverse of `image_levels`."""
    for level, members in zip(levels, concatenation.members, strict=True):
        for i, x in zip(members, level.split([concatenation.channels[i] for i in members], -1), strict=True):
            results[i][image] = x.permute(2, 0, 1)


class Tile(NamedTuple):
    """A tile of rows × columns at the finest level."""

    rows: slice
    columns: slice
    left: Tensor
    """(rows, columns, c_0 + 1 + cells), overwritten by the next tile."""
    down: list[Band]
    """Along the rows, of the levels after the finest."""
    across: list[Band]

    def parts(self) -> list[int]:
        """How the last axis of `left` is divided: the channels of the finest level and 1, then cells by level."""
        cells = [band.cells.stop - band.cells.start for band in self.across]
        return [self.left.shape[-1] - sum(cells), *cells]


def tiles(levels: Sequence[Tensor], channels: int) -> Iterator[Tile]:
    """The tiles of an image, X_i (h_i, w_i, c_i), where each is to be multiplied with so many channels."""
    fine, *coarse = levels
    height, width, own = fine.shape
    rows, columns = _tile_size(height, width, channels, fine.device.type)
    down = [bands(x.shape[0], height, rows, fine.dtype, fine.device) for x in coarse]
    across = [bands(x.shape[1], width, columns, fine.dtype, fine.device) for x in coarse]
    for i, first in enumerate(range(0, width, columns)):
        at = slice(first, min(first + columns, width))
        here = [each[i] for each in across]
        weights = [band.weights.expand(rows, -1, -1) for band in here]
        left = torch.cat([fine.new_ones(rows, at.stop - first, own + 1), *weights], -1)
        for j, top in enumerate(range(0, height, rows)):
            end = min(top + rows, height)
            tile = Tile(slice(top, end), at, left[: end - top], [each[j] for each in down], here)
            tile.left[..., :own] = fine[tile.rows, tile.columns]
            yield tile


def sums(levels: Sequence[Tensor], weights: Sequence[Tensor], shift: Tensor) -> Iterator[tuple[Tile, Tensor]]:
    """Σ up(X_i) W_i + shift at the finest level, tile by tile (rows, columns, C); the next tile overwrites it.

    Args:
        levels: X_i (h_i, w_i, c_i).
        weights: W_i (c_i, C).
        shift: (C,).
    """
    channels = len(shift)
    products = [
        torch.mm(x.flatten(0, 1), w).view(*x.shape[:2], channels) for x, w in zip(levels[1:], weights[1:], strict=True)
    ]
    own = torch.cat([weights[0], shift[None]])
    for tile in tiles(levels, channels):
        rows, columns, width = tile.left.shape
        if tile.rows.start == 0:
            rights = shift.new_empty(rows, width, channels)
            rights[:, : len(own)] = own
            results = shift.new_empty(rows, columns, channels)
        right, result = rights[:rows], results[:rows]
        _, *stretched = right.split(tile.parts(), 1)
        for place, product, vertical, horizontal in zip(stretched, products, tile.down, tile.across, strict=True):
            cells = product[vertical.cells, horizontal.cells]
            torch.mm(vertical.weights, cells.view(len(cells), -1), out=place.view(rows, -1))
        yield tile, torch.bmm(tile.left, right, out=result)


class Adjoint:
    """Gradients of the maps and the weights of `sums`, from those of its tiles."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = weights
        self._sums = [w.new_zeros(w.shape) for w in weights]
        self._total = weights[0].new_zeros(weights[0].shape[1], dtype=torch.float64)

    def start(self, levels: Sequence[Tensor]) -> None:
        """The tiles of another image follow."""
        self._levels = levels
        self._fine = levels[0].new_empty(levels[0].shape)
        self._gathered = [x.new_zeros(*x.shape[:2], len(self._total)) for x in levels[1:]]

    def add(self, tile: Tile, gradient: Tensor) -> None:
        """Add the share of a tile, of which the gradient is (rows, columns, C)."""
        rows, columns, channels = gradient.shape
        tokens = gradient.reshape(rows * columns, channels)
        own, *interpolated = tile.left.split(tile.parts(), -1)
        # Products are added as a whole: accumulated term by term they would be rounded as often as they have terms.
        self._sums[0] += torch.mm(own[..., :-1].reshape(len(tokens), -1).T, tokens)
        self._total += tokens.sum(0)
        self._fine[tile.rows, tile.columns] = torch.mm(tokens, self._weights[0].T).view(rows, columns, -1)
        for place, weights, vertical, horizontal in zip(
            self._gathered, interpolated, tile.down, tile.across, strict=True
        ):
            shrunk = torch.bmm(weights.mT, gradient)
            cells = place[vertical.cells, horizontal.cells]
            cells.view(len(cells), -1).addmm_(vertical.weights.T, shrunk.view(rows, -1))

    def finish(self) -> list[Tensor]:
        """The gradients of the levels of the image whose tiles have been added."""
        results = [self._fine]
        for x, w, gathered, sums in zip(
            self._levels[1:], self._weights[1:], self._gathered, self._sums[1:], strict=True
        ):
            gradient = gathered.flatten(0, 1)
            sums += torch.mm(x.flatten(0, 1).T, gradient)
            results.append(torch.mm(gradient, w.T).view(x.shape))
        return results

    def weight(self) -> Tensor:
        """Σ Xᵀ up_iᵀ G over the images so far, level below level, (Σ c_i, C)."""
        return torch.cat(self._sums)

    def shift(self) -> Tensor:
        """Σ G over the images so far, (C,), in float64."""
        return self._total


class Resampling:
    """up_kᵀ up_j of two levels: from cells of level j to cells of level k, by two small matrices."""

    def __init__(self, concatenation: Concatenation, dtype: torch.dtype, device: torch.device) -> None:
        self._down, self._across = (
            [interpolation(size[axis], concatenation.sizes[0][axis], device) for size in concatenation.sizes]
            for axis in (0, 1)
        )
        self._dtype = dtype

    def __call__(self, x: Tensor, j: int, k: int) -> Tensor:
        """X_j (h_j, w_j, c) → (h_k, w_k, c)."""
        if j == k == 0:
            return x
        rows, columns = ((each[k].T @ each[j]).to(self._dtype) for each in (self._down, self._across))
        shrunk = torch.mm(rows, x.flatten(1)).view(len(rows), *x.shape[1:])
        return torch.matmul(columns, shrunk)

    def coverage(self, k: int) -> tuple[Tensor, Tensor]:
        """The factors (h_k,) and (w_k,) of up_kᵀ 1, the pixels that each cell of level k stands for."""
        rows, columns = (each[k].sum(0).to(self._dtype) for each in (self._down, self._across))
        return rows, columns


# On a CPU a tile and its products stay in the second-level cache; a GPU wants many tokens at once.
_TOKENS, _TILE_ELEMENTS = 80, 2**24


def _tile_size(height: int, width: int, channels: int, device: str) -> tuple[int, int]:
    """Rows and columns: columns nearly equal, as their interpolation costs the more the longer a run is."""
    parts = -(-width // (_TOKENS + _TOKENS // 5))
    columns = -(-width // parts)
    tokens = _TOKENS if device == "cpu" else max(_TILE_ELEMENTS // channels, _TOKENS)
    return min(max(tokens // columns, 1), height), columns
