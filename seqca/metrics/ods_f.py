"""odsF: the F of edges that are matched within a distance."""

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqca.labels import IGNORE
from seqca.metrics.base import TaskMetric, check_probability
from seqca.metrics.edge_matching import edge_counts
from seqca.protocols import DEFAULT, get_protocol


class OdsF(TaskMetric):
    """F = 2PR/(P + R) of thinned edges, matched one to one within a distance, at the data set's best threshold.

    At every threshold P = matched / predicted and R = matched / true pixels, each summed over all images. Protocol
    `mtinet` has the thresholds 0.01, 0.02, …, 0.99 and a pixel is an edge from the threshold on; `invpt` suppresses
    non-maxima first, has two thresholds more (0.001 and 0.999), and a pixel is an edge above the threshold.

    The matching is the largest there is. The tool behind published scores (SEISM, MATLAB) approximates it at random and
    finds up to 0.5 % fewer pairs.

    Args:
        max_distance: within which two pixels may be matched, in units of the image's diagonal: 0.011 for NYUD-v2,
            0.0075 for PASCAL-Context.
        protocol: "mtinet" or "invpt".
        thresholds: how many of the protocol's thresholds are looked at, evenly spread; all of them if None.
        every: look at every so-manieth image only, for a rough value while training.
        workers: processes that match while the next images are predicted; 0 matches in this process.
    """

    matches: Tensor

    def __init__(
        self,
        max_distance: float,
        protocol: str = DEFAULT,
        thresholds: int | None = None,
        every: int = 1,
        workers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= max_distance < 1:
            raise ValueError(f"max_distance: got {max_distance}, expected a share of the image's diagonal in [0, 1)")
        self.reading = get_protocol(protocol).edges
        every_threshold = self.reading.thresholds
        if thresholds is not None and not 1 <= thresholds <= len(every_threshold):
            raise ValueError(f"thresholds: got {thresholds}, expected 1 to {len(every_threshold)}")
        for name, value, least in (("every", every, 1), ("workers", workers, 0)):
            if value < least:
                raise ValueError(f"{name}: got {value}, expected at least {least}")
        positions = np.linspace(-1, len(every_threshold), (thresholds or len(every_threshold)) + 2)[1:-1].round()
        self.thresholds = every_threshold if thresholds is None else tuple(every_threshold[int(i)] for i in positions)
        self.max_distance, self.every, self.workers = max_distance, every, workers
        self._seen = 0
        self._pool: ProcessPoolExecutor | None = None
        self._pending: list[Future[np.ndarray]] = []
        self.add_sum("matches", len(self.thresholds), 4, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the images: prediction (B, 1, H, W) probabilities, target the same, an edge from 0.5 up.

        Rows and columns that are ignored (255) from one end to the other, as padding is, are cut off.
        """
        check_probability(prediction, target)
        for probability, edges in zip(prediction[:, 0].float().cpu().numpy(), target[:, 0].cpu().numpy(), strict=True):
            self._seen += 1
            if (self._seen - 1) % self.every:
                continue
            labelled = edges != IGNORE
            box = np.ix_(labelled.any(1), labelled.any(0))
            self._match(probability[box], (edges[box] >= 0.5) & labelled[box])

    def _match(self, probability: np.ndarray, edges: np.ndarray) -> None:
        arguments = (probability, edges, self.max_distance, self.reading, self.thresholds)
        if self.workers == 0:
            self._add(edge_counts(*arguments))
            return
        if self._pool is None:
            # Not forked: this process may have threads and a GPU.
            self._pool = ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context("spawn"))
        self._pending.append(self._pool.submit(edge_counts, *arguments))
        while len(self._pending) > 8 * self.workers:  # maps that wait take memory
            self._add(self._pending.pop(0).result())

    def _add(self, counts: np.ndarray) -> None:
        self.matches += torch.from_numpy(counts).to(self.matches.device)

    def _finish(self) -> None:
        from tqdm import tqdm

        if self._pending:
            for future in tqdm(self._pending, desc="matching edges", unit="image", disable=None, leave=False):
                self._add(future.result())
        self._pending = []
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Bring the processes' counts together, once this one's are complete."""
        self._finish()
        super().sync(*args, **kwargs)

    def counts(self) -> Tensor:
        """Matched predicted, predicted, matched true and true pixels at each threshold, int64 (T, 4)."""
        self._finish()
        return self.matches

    def compute(self) -> dict[str, Tensor]:
        """{"odsF": in [0, 1]}; 0 where nothing is matched."""
        matched, predicted, _, true = self.counts().double().unbind(1)
        # 2PR/(P + R) = 2 matched / (predicted + true)
        return {"odsF": (2 * matched / (predicted + true).clamp(min=1)).max()}

    def reset(self) -> None:
        """Forget everything that was added."""
        for future in self._pending:
            future.cancel()
        self._pending = []
        self._finish()
        self._seen = 0
        super().reset()

    def best_constant(self, labels: Iterable[Tensor]) -> Tensor:
        """0.5: of an edge everywhere thinning leaves almost nothing, of an edge nowhere nothing at all."""
        return torch.tensor([0.5], dtype=torch.float64)
