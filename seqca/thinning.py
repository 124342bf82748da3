"""Thinning of binary maps to lines of one pixel."""

import numpy as np

# The eight neighbours, counter-clockwise from the right: (rows down, columns to the right).
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def thin(mask: np.ndarray) -> np.ndarray:
    """The map (H, W) thinned to lines, as bool.

    The two-subiteration algorithm of Guo and Hall ("Parallel thinning with two-subiteration algorithms", CACM 1989;
    its conditions as in Lam, Lee and Suen, PAMI 1992), which MATLAB's `bwmorph` and scikit-image's
    `morphology.thin` have as well, with the same result. A pixel is looked at again only after one of its neighbours
    was deleted: nothing else can change the verdict on it. So the time grows with the pixels that are deleted and not
    with their number times the thickness of the lines.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask: got {mask.shape}, expected (H, W)")
    padded = np.pad(mask.astype(bool, order="C"), 1)  # so that what is flattened below is no copy
    width = padded.shape[1]
    pixels = padded.view(np.uint8).ravel()
    steps = np.array([row * width + column for row, column in _NEIGHBOURS])

    # Surrounded pixels stay, so that the border of the map is all that has to be looked at in the beginning.
    surrounded = np.ones(mask.shape, bool)
    for row, column in _NEIGHBOURS:
        surrounded &= padded[1 + row : 1 + row + mask.shape[0], 1 + column : 1 + column + mask.shape[1]]
    border = np.flatnonzero(np.pad(padded[1:-1, 1:-1] & ~surrounded, 1))
    waiting = [border, border]  # pixels to be looked at, by subiteration
    touched = np.zeros(pixels.shape, bool)
    while waiting[0].size or waiting[1].size:
        for turn in (0, 1):
            candidates = waiting[turn][pixels[waiting[turn]] == 1]
            code = np.zeros(candidates.shape, np.uint8)
            for bit, step in enumerate(steps):
                code |= pixels[candidates + step] << np.uint8(bit)
            deleted = candidates[_DELETABLE[turn][code]]
            pixels[deleted] = 0
            touched[:] = False
            for step in steps:
                touched[deleted + step] = True
            changed = np.flatnonzero(touched & (pixels == 1))
            waiting[turn] = changed
            waiting[1 - turn] = np.union1d(waiting[1 - turn], changed) if deleted.size else waiting[1 - turn]
    return padded[1:-1, 1:-1].copy()


def _deletable() -> tuple[np.ndarray, np.ndarray]:
    """For each of the two subiterations, whether a pixel with these neighbours (bit i: neighbour i is set) goes."""
    x = [(np.arange(256) >> bit & 1).astype(bool) for bit in range(8)]

    def pairs(first: int) -> np.ndarray:
        return sum((x[(first + 2 * i) % 8] | x[(first + 2 * i + 1) % 8]).astype(int) for i in range(4))

    crossings = sum((~x[2 * i] & (x[2 * i + 1] | x[(2 * i + 2) % 8])).astype(int) for i in range(4))
    fewest = np.minimum(pairs(0), pairs(1))
    ends = (crossings == 1) & (fewest >= 2) & (fewest <= 3)
    return ends & ~((x[1] | x[2] | ~x[7]) & x[0]), ends & ~((x[5] | x[6] | ~x[3]) & x[4])


_DELETABLE = _deletable()
