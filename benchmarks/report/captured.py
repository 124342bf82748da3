"""The table of operators and of the training step on a GPU, each replayed as a CUDA graph, so that no launch counts."""

from typing import Any

from seqca.ops.shared.dispatch import BACKENDS

from .tables import NOTHING, Results, markdown

MODE = "graph"


def captured_table(results: Results) -> str:
    """Of every case forward and backward: the reference's time and the fastest backend's, what is kept and the peak.

    Memory is that of eager calls, as a graph holds all of its own. Empty where nothing was captured.
    """
    rows = []
    for case in results["cases"].values():
        times = {name: entry["time"]["median"] for name, entry in case["providers"].items() if "time" in entry}
        before = times.get(f"reference, {MODE}")
        names = ("auto", *BACKENDS[1:])
        own = {backend: times[f"{backend}, {MODE}"] for backend in names if f"{backend}, {MODE}" in times}
        if case["direction"] != "both" or before is None or not own:
            continue
        fastest = min(own, key=lambda backend: own[backend])
        rows.append([
            f"{case['operator']}, {case['shape']}, {case['dtype']}", f"{before * 1e3:.3g} ms",
            f"{own[fastest] * 1e3:.3g} ms ({fastest})", f"{before / own[fastest]:.1f}",
            _share(case, fastest, "kept_bytes"), _share(case, fastest, "peak_bytes"),
        ])  # fmt: skip
    if not rows:
        return ""
    header = ("forward and backward", "reference", "`seqca`", "times faster", "kept", "peak")
    where = results["environment"]
    versions = f"torch {where['torch']}, Triton {where['triton']}; commit {str(where['commit'])[:8]}"
    caption = (
        f"{versions}; both captured as CUDA graphs, in turns in the same process. Kept for "
        "backward and peak memory are multiples of the reference's, of eager calls."
    )
    return markdown(header, rows) + "\n\n" + caption


def _share(case: dict[str, Any], backend: str, what: str) -> str:
    """Bytes of a backend as a multiple of the reference's."""
    one, unit = (case["providers"].get(name, {}).get(what) for name in (backend, "reference"))
    return f"{one / unit:.2f}×" if one and unit else NOTHING
