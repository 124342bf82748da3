"""The page docs/step.md: where the time of a training step goes, from the files in benchmarks/profiles/."""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .tables import LABELS, NOTHING, device_name, markdown

KINDS = {
    "cross_attention": "kernels of `cross_attention`",
    "aggregation_head|pyramid|scale_aggregation": "kernels of `aggregation_head`",
    "norm_relu": "kernels of `norm_relu`",
    "upsampled_loss": "kernels of `upsampled_loss`",
    "nchwToNhwc|nhwcToNchw|tensorTransform": "changes of memory format in cuDNN",
    "conv|xmma|wgrad|dgrad|fprop": "convolutions",
    "gemm|nvjet|cutlass|cublas": "products",
    "upsample_bilinear": "interpolation",
    "batch_norm": "batch norms of torch",
    "layer_norm|LayerNorm|RowwiseMoments|GammaBeta": "layer norms",
    "copy|CatArray": "copies, casts, concatenations",
    "reduce_kernel": "sums of torch",
    "fill|[Mm]emset|memcpy": "fills and small copies",
    "softmax|SoftMax": "softmax",
    "elementwise|multi_tensor": "functions of elements",
}
"""Kinds of kernels by what their names have; the first that fits."""


def page(files: Sequence[Path]) -> str:
    """docs/step.md."""
    parts = [_of_device(json.loads(path.read_text())) for path in files]
    return "\n".join([_HEAD, *parts])


_HEAD = """# Where the time of a training step goes

A step is the forward pass, the losses and the gradients of all parameters, without the optimiser, of 480×640 images
with four tasks. `python -m benchmarks.profile --output benchmarks/profiles/NAME.json` measures it, and
`python -m benchmarks report` writes this page. *At the limit* is how long the products and convolutions of a part would
take at the rate of a large matrix product on the same machine; those that the pass backward computes again count too. A
part that is far above it moves bytes, waits, or computes something else.
"""


def _of_device(found: dict[str, Any]) -> str:
    where, gpu = found["environment"], found["environment"]["device"] == "cuda"
    lines = [
        f"## {'On a GPU' if gpu else 'On a CPU'}\n",
        f"{device_name(found)}; {found['batch']} image{'s' * (found['batch'] > 1)}, {found['dtype']}; torch "
        f"{where['torch']}; commit {str(where['commit'])[:8]}{' with changes' * where['dirty']}; "
        f"{found['matrix rate'] / 1e12:,.2f} TFLOP/s." + (" Replayed as a CUDA graph." if gpu else ""),
        *_replays(found.get("replays", {})),
    ]
    for backend, step in found["steps"].items():
        lines += [f"\n### {LABELS[backend]}: {_time(step['seconds'], gpu)}\n", _by_part(found, step, gpu)]
        if gpu:
            lines += ["", _by_kind(step)]
    return "\n".join(lines) + "\n"


def _replays(turns: dict[str, list[float]]) -> list[str]:
    """A sentence on the backends in turns, if there were several."""
    if len(turns) < 2:
        return []
    medians = {backend: statistics.median(times) for backend, times in turns.items()}
    slowest = max(medians.values())
    times = [
        f"{LABELS[name]} {1e3 * x:.1f} ms" + (f" ({slowest / x:.2f} times faster)" if x < slowest else "")
        for name, x in medians.items()
    ]
    return [f"\nReplayed in turns, without marks between the parts: {'; '.join(times)}."]


def _by_part(found: dict[str, Any], step: dict[str, Any], gpu: bool) -> str:
    rows = step["kernels"]
    operations = {(part, direction): number for part, direction, number in found["operations"]}
    sums = _sums(rows, lambda row: (row[0], row[1]))
    names = sorted(
        {part for part, _ in sums}, key=lambda part: -sum(sums.get((part, d), (0, 0.0))[1] for d in _DIRECTIONS)
    )
    lines = []
    for part in names:
        both = [sums.get((part, direction), (0, 0.0)) for direction in _DIRECTIONS]
        work = sum(operations.get((part, direction), 0) for direction in _DIRECTIONS)
        lines.append(
            [
                part,
                *(_time(seconds, gpu) for _, seconds in both),
                f"{sum(seconds for _, seconds in both) / step['seconds']:.0%}",
                *([f"{sum(calls for calls, _ in both):,}"] if gpu else []),
                f"{work / 1e9:,.0f} GFLOP" if work else NOTHING,
                _time(work / found["matrix rate"], gpu) if work else NOTHING,
            ]
        )
    header = ["part", "forward", "backward", "share", *(["kernels"] if gpu else []), "operations", "at the limit"]
    return markdown(header, lines)


_DIRECTIONS = ("forward", "backward")


def _by_kind(step: dict[str, Any]) -> str:
    sums = _sums(step["kernels"], lambda row: kind(row[2]))
    busy = sum(seconds for _, seconds in sums.values())
    sums["no kernel"] = (0, max(0.0, step["seconds"] - busy))
    return markdown(
        ["kernels", "ms", "share", "number"],
        [
            [name, f"{1e3 * seconds:.1f}", f"{seconds / step['seconds']:.0%}", f"{calls:,}" if calls else NOTHING]
            for name, (calls, seconds) in sorted(sums.items(), key=lambda item: -item[1][1])
        ],
    )


def kind(kernel: str) -> str:
    """In words."""
    return next((words for pattern, words in KINDS.items() if re.search(pattern, kernel)), "other kernels of torch")


def _sums(rows: Iterable[Sequence[Any]], key: Callable[[Sequence[Any]], Any]) -> dict[Any, tuple[int, float]]:
    sums: dict[Any, tuple[int, float]] = {}
    for row in rows:
        calls, seconds = sums.get(key(row), (0, 0.0))
        sums[key(row)] = (calls + row[3], seconds + row[4])
    return sums


def _time(seconds: float, gpu: bool) -> str:
    return f"{1e3 * seconds:.1f} ms" if gpu else f"{seconds:.2f} s"
