"""Maps of several resolutions of one image, and sums of products with them at the finest one, tile by tile.

A 1×1 convolution commutes with bilinear upsampling: Σ up(X_i) W_i = Σ up(X_i W_i), with products at each level's own
resolution. Tokens come first, (h, w, channels). In a tile of rows × columns at the finest level the sum is
[X_0, 1] [W_0; shift], and the cells of X_i W_i that the tile touches interpolated: first down, to the rows of the tile,
then across, for the cells of all levels in one product for each row. The adjoint takes the same products transposed.
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
    """A tile of rows × columns at the finest level; the next one overwrites its tokens."""

    rows: slice
    columns: slice
    tokens: Tensor
    """(rows · columns, c_0 + 1): the finest level and 1."""
    down: list[Band]
    """Of the levels after the finest, rows of the cells that the tile touches, and their weights in its rows."""
    across: list[Band]
    """The same of columns."""
    weights: Tensor
    """(columns, cells): those of `across` side by side."""

    def image(self, tokens: Tensor) -> Tensor:
        """(rows · columns, C) → (rows, columns, C)."""
        return tokens.view(self.rows.stop - self.rows.start, -1, tokens.shape[1])

    def cells(self, level: int, x: Tensor) -> Tensor:
        """The cells that the tile touches of a level after the finest (h, w, C), (rows, columns · C)."""
        own = x[self.down[level].cells, self.across[level].cells]
        return own.view(len(own), -1)

    def by_level(self, rows: Tensor) -> list[Tensor]:
        """The levels after the finest in its rows (rows, cells, C), each (rows, columns · C)."""
        parts = rows.split([band.weights.shape[1] for band in self.across], 1)
        return [part.view(len(part), -1) for part in parts]

    def repeated(self) -> Tensor:
        """The weights for each of the rows, (rows, columns, cells)."""
        return self.weights.expand(self.rows.stop - self.rows.start, -1, -1)


def tiles(levels: Sequence[Tensor]) -> Iterator[Tile]:
    """The tiles of an image, X_i (h_i, w_i, c_i)."""
    fine, *coarse = levels
    height, width, channels = fine.shape
    rows, columns = _tile_size(height, width)
    down = [bands(x.shape[0], height, rows, fine.dtype, fine.device) for x in coarse]
    across = [bands(x.shape[1], width, columns, fine.dtype, fine.device) for x in coarse]
    tokens = fine.new_ones(rows * columns, channels + 1)
    for i, top in enumerate(range(0, height, rows)):
        for j, first in enumerate(range(0, width, columns)):
            at = slice(top, min(top + rows, height)), slice(first, min(first + columns, width))
            own = fine[at]
            place = tokens[: own.shape[0] * own.shape[1]]
            place.view(*own.shape[:2], -1)[..., :channels] = own
            both = [bands_of[i] for bands_of in down], [bands_of[j] for bands_of in across]
            weights = torch.cat([own.new_empty(own.shape[1], 0), *(band.weights for band in both[1])], 1)
            yield Tile(*at, place, *both, weights)


def sums(levels: Sequence[Tensor], weights: Sequence[Tensor], shift: Tensor) -> Iterator[tuple[Tile, Tensor]]:
    """Σ up(X_i) W_i + shift at the finest level, tile by tile (rows · columns, C); the next tile overwrites it.

    Args:
        levels: X_i (h_i, w_i, c_i).
        weights: W_i (c_i, C).
        shift: (C,).
    """
    products = [
        torch.mm(x.flatten(0, 1), w).view(*x.shape[:2], -1) for x, w in zip(levels[1:], weights[1:], strict=True)
    ]
    own, channels = torch.cat([weights[0], shift[None]]), len(shift)
    result, between = shift.new_empty(0), shift.new_empty(0)
    for tile in tiles(levels):
        repeated = tile.repeated()
        torch.mm(tile.tokens, own, out=result.resize_(len(tile.tokens), channels))
        rows = between.resize_(len(repeated), repeated.shape[2], channels)
        for i, (band, place) in enumerate(zip(tile.down, tile.by_level(rows), strict=True)):
            torch.mm(band.weights, tile.cells(i, products[i]), out=place)
        tile.image(result).baddbmm_(repeated, rows)
        yield tile, result


class Adjoint:
    """Gradients of the maps and the weights of `sums`, from those of its tiles."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = weights
        self._sums = [w.new_zeros(w.shape) for w in weights]
        self._total = weights[0].new_zeros(weights[0].shape[1], dtype=torch.float64)
        self._between = weights[0].new_empty(0)

    def start(self, levels: Sequence[Tensor]) -> None:
        """The tiles of another image follow."""
        self._levels = levels
        self._fine = levels[0].new_empty(levels[0].shape)
        self._gathered = [x.new_zeros(*x.shape[:2], len(self._total)) for x in levels[1:]]

    def add(self, tile: Tile, gradient: Tensor) -> None:
        """Add the share of a tile, of which the gradient is (rows · columns, C)."""
        self._fine[tile.rows, tile.columns] = tile.image(torch.mm(gradient, self._weights[0].T))
        # Products are added as a whole: accumulated term by term they would be rounded as often as they have terms.
        own = torch.mm(tile.tokens.T, gradient)
        self._sums[0] += own[:-1]
        self._total += own[-1]
        transposed = tile.repeated().mT
        rows = self._between.resize_(*transposed.shape[:2], len(self._total))
        torch.bmm(transposed, tile.image(gradient), out=rows)
        for i, (band, share) in enumerate(zip(tile.down, tile.by_level(rows), strict=True)):
            tile.cells(i, self._gathered[i]).addmm_(band.weights.T, share)

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

    def __init__(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> None:
        self._sizes, self._device = sizes, device
        self._matrices: dict[tuple[int, int, int], Tensor] = {}

    def __call__(self, x: Tensor, j: int, k: int) -> Tensor:
        """X_j (h_j, w_j, c) → (h_k, w_k, c), in the dtype of X_j."""
        if j == k == 0:
            return x
        rows, columns = (self._matrix(axis, j, k).to(x.dtype) for axis in (0, 1))
        shrunk = torch.mm(rows, x.flatten(1)).view(len(rows), *x.shape[1:])
        return torch.matmul(columns, shrunk)

    def coverage(self, k: int) -> tuple[Tensor, Tensor]:
        """The factors (h_k,) and (w_k,) of up_kᵀ 1, the pixels that each cell of level k stands for, in float64."""
        rows, columns = (self._up(axis, k).sum(0) if k else self._ones(axis) for axis in (0, 1))
        return rows, columns

    def _matrix(self, axis: int, j: int, k: int) -> Tensor:
        if (axis, j, k) not in self._matrices:
            own = self._up(axis, j) if j else None
            other = self._up(axis, k).T if k else None
            both = [x for x in (other, own) if x is not None]
            self._matrices[axis, j, k] = both[0] if len(both) == 1 else both[0] @ both[1]
        return self._matrices[axis, j, k]

    def _up(self, axis: int, k: int) -> Tensor:
        return interpolation(self._sizes[k][axis], self._sizes[0][axis], self._device)

    def _ones(self, axis: int) -> Tensor:
        return torch.ones(self._sizes[0][axis], dtype=torch.float64, device=self._device)


# A tile and its products stay in the last level of a CPU's cache. In smaller ones its cores would wait for what starts
# their work, as a GPU would.
_TILE = (24, 32)


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns: nearly square, as the cells that a tile touches are the fewer, and columns nearly equal."""
    high, wide = _TILE
    rows = min(high, height)
    columns = high * wide // rows
    parts = -(-width // (columns + columns // 4))
    return rows, -(-width // parts)
