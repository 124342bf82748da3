"""Matching predicted with true edges, one to one and within a distance, in NumPy and SciPy.

SciPy is imported when it is first needed: importing the scores does not take it.
"""

from typing import Any

import numpy as np

from seqca.protocols import EdgeMatching
from seqca.thinning import thin


def edge_counts(
    probability: np.ndarray,
    edges: np.ndarray,
    max_distance: float,
    reading: EdgeMatching,
    thresholds: tuple[float, ...],
) -> np.ndarray:
    """Matched predicted, predicted, matched true and true pixels of one image at every threshold, int64 (T, 4).

    At each threshold the prediction is made binary and thinned, and as many of its pixels as possible are matched with
    pixels of the thinned true edges, each with at most one and at a distance of at most `max_distance` times the
    image's diagonal (Martin, Fowlkes and Malik, PAMI 2004). Matched predicted and matched true pixels are therefore
    equal in number.

    Args:
        probability: (H, W) float32.
        edges: (H, W) bool.
        max_distance: in units of the image's diagonal.
        reading: how the protocol reads a prediction.
        thresholds: from which on, or above which, a pixel is an edge.
    """
    from scipy.spatial import cKDTree

    if reading.suppress:
        probability = suppress_non_maxima(probability)
    true = np.argwhere(thin(edges))
    radius = max_distance * float(np.hypot(*edges.shape))
    tree = cKDTree(true) if len(true) else None
    counts = np.zeros((len(thresholds), 4), np.int64)
    counts[:, 3] = len(true)
    known: dict[int, tuple[int, int]] = {}  # by the number of pixels: a larger threshold may change nothing
    for row, threshold in enumerate(np.asarray(thresholds, np.float32)):
        binary = probability > threshold if reading.strictly_above else probability >= threshold
        pixels = int(binary.sum())
        if pixels not in known:
            predicted = np.argwhere(thin(binary))
            known[pixels] = (most_pairs(predicted, tree, radius), len(predicted))
        matched, count = known[pixels]
        counts[row, :3] = matched, count, matched
    return counts


def most_pairs(points: np.ndarray, tree: Any, radius: float) -> int:
    """How many of `points` (N, 2) can have a point of a `cKDTree` within `radius` of their own.

    A maximum bipartite matching, found as the maximum flow from a source through points and tree to a sink, all
    capacities 1, by Dinic's algorithm. (SciPy's `maximum_bipartite_matching` is the same in theory; on two curves side
    by side it has been seen to run for more than ten minutes where the flow takes 0.08 s.)
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow
    from scipy.spatial import cKDTree

    if tree is None or not len(points):
        return 0
    pairs = cKDTree(points).sparse_distance_matrix(tree, radius, output_type="ndarray")
    count, others = len(points), tree.n
    sink = 1 + count + others
    starts = np.concatenate([np.zeros(count, np.int64), 1 + pairs["i"], 1 + count + np.arange(others)])
    ends = np.concatenate([1 + np.arange(count), 1 + count + pairs["j"], np.full(others, sink)])
    capacities = np.ones(len(starts), np.int32)
    graph = csr_array((capacities, (starts.astype(np.int32), ends.astype(np.int32))), shape=(sink + 1, sink + 1))
    return int(maximum_flow(graph, 0, sink).flow_value)


def suppress_non_maxima(probability: np.ndarray, border: int = 5, multiplier: float = 1.01) -> np.ndarray:
    """The map (H, W) with 0 where a neighbour across the edge is clearly stronger, as float32.

    As in the edge detection toolbox of Dollár and Zitnick ("Fast Edge Detection Using Structured Forests", PAMI 2015):
    the edge's direction comes from second derivatives of the map smoothed by a triangle of radius 4; a pixel goes where
    the map, interpolated at a distance of 1 to either side, exceeds `multiplier` times its value; towards the image's
    border the values fall to 0 over `border` pixels. (The toolbox adds 1e-5 to a denominator that may be 0. The
    counts that the tests hold do without, and so does this.)
    """
    # The levels of a stored picture are made whole again: of them sums and differences are exact, so that rounding
    # cannot turn an edge where derivatives vanish, and k/5 of them near the border meet thresholds exactly.
    levels = 255 * probability.astype(np.float64)
    levels = np.where(np.abs(levels - np.rint(levels)) < 1e-4, np.rint(levels), levels)
    values = levels / 255
    smooth = _triangle(levels)
    down, right = np.gradient(smooth)
    right_right = np.gradient(right, axis=1)
    down_down, down_right = np.gradient(down)
    angle = np.arctan2(down_down * np.sign(-down_right), right_right)  # or the opposite: both sides are looked at
    height, width = values.shape
    rows, columns = np.mgrid[:height, :width]
    suppressed = values.copy()
    for side in (-1, 1):
        neighbour = _interpolate(values, rows + side * np.sin(angle), columns + side * np.cos(angle))
        suppressed[values * multiplier < neighbour] = 0
    margin = min(border, height // 2, width // 2)
    for axis, length in enumerate(values.shape):
        distance = np.minimum(np.arange(length), np.arange(length)[::-1])
        ramp = np.minimum(distance / max(margin, 1), 1)
        suppressed *= ramp[:, None] if axis == 0 else ramp[None]
    return suppressed.astype(np.float32)


def _triangle(values: np.ndarray, radius: int = 4) -> np.ndarray:
    """The map smoothed, times the square of the kernel's sum, float64."""
    from scipy.ndimage import correlate1d

    kernel = radius + 1 - np.abs(np.arange(-radius, radius + 1))
    values = values.astype(np.float64)
    return correlate1d(correlate1d(values, kernel, axis=0, mode="reflect"), kernel, axis=1, mode="reflect")


def _interpolate(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    height, width = values.shape
    rows, columns = rows.clip(0, height - 1.001), columns.clip(0, width - 1.001)
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    down, right = rows - top, columns - left
    upper = values[top, left] * (1 - right) + values[top, left + 1] * right
    lower = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down
