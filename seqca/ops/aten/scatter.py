"""Σ (x − m)(x − m)ᵀ over tokens x whose channels stand in blocks, block by block, and as what is kept of it."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Scatter:
    """The sums, in float64.

    Args:
        channels: of each block.
        device: to sum on.
    """

    def __init__(self, channels: Sequence[int], device: torch.device) -> None:
        self.sums = torch.zeros(sum(channels), sum(channels), dtype=torch.float64, device=device)
        self._blocks = [rows.split(list(channels), 1) for rows in self.sums.split(list(channels))]

    def add(self, j: int, i: int, left: Tensor, right: Tensor) -> None:
        """Add leftᵀ right, of tokens (n, c_j) and (n, c_i), to a block, and its transpose to its mirror."""
        product = torch.mm(left.T, right)
        self._blocks[j][i].add_(product)
        if i != j:
            self._blocks[i][j].add_(product.T)


def packed_length(maps: Sequence[Tensor]) -> int:
    """How many numbers of the scatter of maps (B, c, h, w) are kept for backward: its triangle, or none.

    It is worth its place where it is small beside the maps; where they are small, the sums are soon made again.
    """
    channels = sum(x.shape[1] for x in maps)
    triangle = channels * (channels + 1) // 2
    return triangle if 8 * triangle <= sum(x.numel() for x in maps) else 0


def packed(scatter: Tensor) -> Tensor:
    """The lower triangle of a symmetric matrix (n, n), row by row."""
    rows, columns = torch.tril_indices(*scatter.shape, device=scatter.device)
    return scatter[rows, columns]


def unpacked(triangle: Tensor, channels: int) -> Tensor:
    """The symmetric matrix (n, n) of a triangle."""
    rows, columns = torch.tril_indices(channels, channels, device=triangle.device)
    matrix = triangle.new_empty(channels, channels)
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix
