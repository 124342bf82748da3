"""The table of operators and of the training step on a GPU, each replayed as a CUDA graph, so that no launch counts."""

from collections.abc import Iterable
from typing import Any

from seqca.ops.shared.dispatch import BACKENDS

from .tables import NOTHING, Results, device_name, markdown

MODE = "graph"
PUBLISHED = ("cross_attention",)
"""Operators whose provider `reference` was the published sequence before a provider of that name was."""
HEADER = ("forward and backward", "baseline", "`seqca`", "times faster", "kept", "peak", "commit")


def captured_table(results: Iterable[Results]) -> str:
    """Of every case forward and backward: the baseline's time and the fastest backend's, what is kept and the peak.

    A table for each device and its software, from all results measured there. Memory is that of eager calls, as a graph
    holds all of its own. Empty where nothing was captured.
    """
    tables: dict[str, list[list[str]]] = {}
    for result in results:
        where = result["environment"]
        name = f"{device_name(result)}, torch {where['torch']}, Triton {where.get('triton')}"
        rows = [row for case in result["cases"].values() if (row := _row(case, str(where["commit"])[:8]))]
        if rows:
            tables.setdefault(name, []).extend(rows)
    return "\n\n".join(
        f"{markdown(HEADER, rows)}\n\n{name}; both captured as CUDA graphs, in turns in the same process. Kept for "
        "backward and peak memory are multiples of the baseline's, of eager calls. The baseline is the published "
        "sequence of operators (published) or this package's own plain one (reference)."
        for name, rows in tables.items()
    )


def _row(case: dict[str, Any], commit: str) -> list[str] | None:
    times = {name: entry["time"]["median"] for name, entry in case["providers"].items() if "time" in entry}
    baseline = next((name for name in ("published", "reference") if f"{name}, {MODE}" in times), None)
    own = {x: times[f"{x}, {MODE}"] for x in ("auto", *BACKENDS[1:]) if f"{x}, {MODE}" in times}
    if case["direction"] != "both" or baseline is None or not own:
        return None
    before, fastest = times[f"{baseline}, {MODE}"], min(own, key=lambda backend: own[backend])
    label = "published" if case["operator"] in PUBLISHED else baseline
    return [
        f"{case['operator']}, {case['shape']}, {case['dtype']}", f"{before * 1e3:.3g} ms ({label})",
        f"{own[fastest] * 1e3:.3g} ms ({fastest})", f"{before / own[fastest]:.1f}",
        *(_share(case, fastest, baseline, what) for what in ("kept_bytes", "peak_bytes")), commit,
    ]  # fmt: skip


def _share(case: dict[str, Any], backend: str, baseline: str, what: str) -> str:
    """Bytes of a backend as a multiple of the baseline's."""
    one, unit = (case["providers"].get(name, {}).get(what) for name in (backend, baseline))
    return f"{one / unit:.2f}×" if one and unit else NOTHING
