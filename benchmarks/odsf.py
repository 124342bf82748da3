"""The time of odsF: `python -m benchmarks.odsf`.

Maps of 480×640 are matched in two worker processes, as `seqca test` does, and some of them in this process, where the
time of each stage is added up. True edges are those of rendered rooms; predictions are the same edges, displaced,
blurred and with clutter, which a network's look like.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from seqca.data.rooms import Rooms
from seqca.metrics import OdsF, edge_matching
from seqca.protocols import PROTOCOLS

SIZE = (480, 640)
MAX_DISTANCE = 0.011  # NYUD-v2's
IMAGES = 654  # of NYUD-v2's validation set
STAGES = {"suppress_non_maxima": "suppression", "thin": "thinning", "most_pairs": "matching"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--maps", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--staged", type=int, default=3, help="of which by stage as well (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that match (default: %(default)s)")
    options = parser.parse_args()
    rooms = Rooms("val", options.maps, size=SIZE, tasks=["edge"])
    edges = [rooms[index]["edge"] for index in range(options.maps)]
    maps = [(predicted(edge, seed)[None], edge[None]) for seed, edge in enumerate(edges)]
    for protocol in PROTOCOLS:
        shares = seconds_by_stage(protocol, maps[: options.staged])
        total = sum(shares.values())
        print(f"{protocol}: {total / options.staged:.2f} s a map on one core, of which")
        print("".join(f"  {stage} {seconds / total:.0%}\n" for stage, seconds in shares.items()), end="")
        metric = OdsF(MAX_DISTANCE, protocol, workers=options.workers)
        start = time.perf_counter()
        for pair in maps:
            metric.update(*pair)
        score = metric.compute()["odsF"].item()
        wall = time.perf_counter() - start
        print(f"  {len(maps)} maps with {options.workers} workers, their start included: {wall:.0f} s; ", end="")
        print(f"{IMAGES} would be {wall / len(maps) * IMAGES / 60:.0f} minutes (odsF {score:.3f})")


def predicted(edge: torch.Tensor, seed: int) -> torch.Tensor:
    """Probabilities (1, H, W) for the true edges (1, H, W)."""
    generator = np.random.default_rng(seed)
    shifted = np.roll(edge[0].numpy(), generator.integers(-2, 3, 2), (0, 1))
    lines = 2.5 * gaussian_filter(shifted, 2)
    clutter = gaussian_filter(generator.normal(size=edge.shape[1:]), 3)
    probability = (lines + 0.1 * np.abs(clutter) / clutter.std()).clip(0, 1)
    return torch.from_numpy(probability.astype(np.float32))[None]


def seconds_by_stage(protocol: str, maps: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """Where the time goes in one process."""
    seconds: dict[str, float] = defaultdict(float)
    originals = {name: getattr(edge_matching, name) for name in STAGES}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            seconds[STAGES[name]] += time.perf_counter() - start
            return result

        return call

    for name, function in originals.items():
        setattr(edge_matching, name, timed(name, function))
    try:
        start = time.perf_counter()
        metric = OdsF(MAX_DISTANCE, protocol)
        for pair in maps:
            metric.update(*pair)
        seconds["other"] = time.perf_counter() - start - sum(seconds.values())
    finally:
        for name, function in originals.items():
            setattr(edge_matching, name, function)
    return dict(seconds)


if __name__ == "__main__":
    main()
