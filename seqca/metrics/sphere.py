"""The median of directions."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 128  # per unit of each component


class DirectionHistogram:
    """Unit vectors gathered into cells of about 0.4°, of which the number of vectors and their sum are kept."""

    def __init__(self) -> None:
        self.keys = torch.zeros(0, dtype=torch.int64)
        self.sums = torch.zeros(0, 4, dtype=torch.float64)

    def update(self, directions: Tensor) -> None:
        """Add unit vectors (N, 3)."""
        directions = directions.double().cpu()
        cells = (directions * CELLS).round().long() + CELLS
        width = 2 * CELLS + 1
        keys = (cells[:, 0] * width + cells[:, 1]) * width + cells[:, 2]
        entries = torch.cat([directions, directions.new_ones(len(directions), 1)], 1)
        keys, entries = torch.cat([self.keys, keys]), torch.cat([self.sums, entries])
        self.keys, inverse = keys.unique(return_inverse=True)
        self.sums = entries.new_zeros(len(self.keys), 4).index_add_(0, inverse, entries)

    def median(self) -> Tensor:
        """The direction (3,) float64 with the least mean angle to all vectors.

        On the sphere that mean has local minima. A start that is near the global one is found among
        directions all over the sphere and the most frequent ones (a minimum often lies on one of these, where
        the mean angle has a kink), and refined by a pattern search, which needs no derivative.
        """
        if not len(self.keys):
            raise ValueError("labels: got no valid pixel, expected one at least")
        counts = self.sums[:, 3]
        means = F.normalize(self.sums[:, :3], dim=1)

        def mean_angle(candidates: Tensor) -> Tensor:
            # A few at a time: there may be 200,000 cells.
            angles = ((few @ means.T).clamp_(-1, 1).acos_() for few in candidates.split(16))
            return torch.cat([angle @ counts for angle in angles]) / counts.sum()

        frequent = means[counts.topk(min(50, len(counts))).indices]
        candidates = torch.cat([_fibonacci_sphere(400), frequent])
        starts = mean_angle(candidates).topk(3, largest=False).indices
        finalists = torch.stack([_pattern_search(mean_angle, candidates[start]) for start in starts])
        return finalists[mean_angle(finalists).argmin()]


def _fibonacci_sphere(points: int) -> Tensor:
    """Unit vectors spread evenly over the sphere, (points, 3)."""
    index = torch.arange(points, dtype=torch.float64)
    z = 1 - (2 * index + 1) / points
    longitude = index * torch.pi * (5**0.5 - 1)
    radius = (1 - z.square()).sqrt()
    return torch.stack([radius * longitude.cos(), radius * longitude.sin(), z], 1)


def _pattern_search(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimum near `start` of a function of unit vectors (N, 3), by steps in eight directions.

    A step that helps nowhere is halved.
    """
    best, value = start, function(start[None])[0]
    step = 0.2
    turns = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    while step > 1e-5:
        tangents = torch.linalg.svd(best[None]).Vh[1:]
        moves = torch.stack([turns.cos(), turns.sin()], 1) @ tangents
        candidates = F.normalize(best + step * moves, dim=1)
        values = function(candidates)
        winner = values.argmin()
        if values[winner] < value:
            best, value = candidates[winner], values[winner]
        else:
            step /= 2
    return best
