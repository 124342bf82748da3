"""The table of operators and of the training step on a GPU, each replayed as a CUDA graph, so that no launch counts."""

from collections.abc import Iterable
from typing import Any

from seqca.ops.shared.dispatch import BACKENDS

from .tables import NOTHING, Results, device_name, markdown

MODE = "graph"
HEADER = ("forward and backward", "reference", "`seqca`", "times faster", "kept", "peak", "commit")


def captured_table(results: Iterable[Results]) -> str:
    """Of every case forward and backward: the reference's time and the fastest backend's, what is kept and the peak.

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
        "backward and peak memory are multiples of the reference's, of eager calls. The reference of "
        "`cross_attention` is the published sequence, pair after pair."
        for name, rows in tables.items()
    )


def _row(case: dict[str, Any], commit: str) -> list[str] | None:
    times = {name: entry["time"]["median"] for name, entry in case["providers"].items() if "time" in entry}
    before = times.get(f"reference, {MODE}")
    own = {x: times[f"{x}, {MODE}"] for x in ("auto", *BACKENDS[1:]) if f"{x}, {MODE}" in times}
    if case["direction"] != "both" or before is None or not own:
        return None
    fastest = min(own, key=lambda backend: own[backend])
    return [
        f"{case['operator']}, {case['shape']}, {case['dtype']}", f"{before * 1e3:.3g} ms",
        f"{own[fastest] * 1e3:.3g} ms ({fastest})", f"{before / own[fastest]:.1f}",
        _share(case, fastest, "kept_bytes"), _share(case, fastest, "peak_bytes"), commit,
    ]  # fmt: skip


def _share(case: dict[str, Any], backend: str, what: str) -> str:
    """Bytes of a backend as a multiple of the reference's."""
    one, unit = (case["providers"].get(name, {}).get(what) for name in (backend, "reference"))
    return f"{one / unit:.2f}×" if one and unit else NOTHING
