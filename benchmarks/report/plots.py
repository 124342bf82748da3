"""Plots from results: training step; roofline; time and memory against tokens, channels, tasks; attention schemes."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from seqca.ops.shared.operator import OPERATORS

from ..cases.attention_schemes import JOINT, SEQUENTIAL
from ..harness.limits import COPY, MATRIX
from .tables import Results, name_of, scheme_cases, training_steps

Cases = list[dict[str, Any]]


def draw(results: dict[str, Results], folder: Path) -> Iterator[Path]:
    """Draws every plot for which a result has data, as <result>-<plot>.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for stem, result in results.items():
        for name, (title, plot, points) in PLOTS.items():
            if not points(result):
                continue
            figure, axes = plt.subplots(1, 1 if name == "roofline" else 2, figsize=(9, 3.6), squeeze=False)
            plot(list(axes[0]), result)
            figure.suptitle(title)
            figure.tight_layout()
            path = folder / f"{stem}-{name}.png"
            # Without the version of matplotlib in it, the same result gives the same file.
            part = path.with_name(f"{path.name}.part")
            figure.savefig(part, format="png", dpi=90, metadata={"Software": None})
            plt.close(figure)
            part.replace(path)
            yield path


def _sweep(operator: str, axis: str) -> Callable[[Results], Cases]:
    """The cases of an operator's sweep over an axis, in order."""

    def points(results: Results) -> Cases:
        cases = [case for case in results["cases"].values() if case["operator"] == operator]
        swept = [case for case in cases if case["shape"].startswith(f"{axis}/")]
        return sorted(swept, key=lambda case: case["sizes"][axis])

    return points


def _with_products(results: Results) -> Cases:
    """The cases of operators that have times, and matrix products to divide by them."""
    cases = [case for case in results["cases"].values() if case["operator"] not in ("network", "attention_schemes")]
    return [case for case in cases if any(map(_on_roofline, case["providers"].values()))]


def _on_roofline(entry: dict[str, Any]) -> bool:
    return "time" in entry and entry["cost"]["operations"] > 0


def _draw_sweep(operator: str, axis: str) -> Callable[[list[Any], Results], None]:
    def plot(axes: list[Any], results: Results) -> None:
        cases = _sweep(operator, axis)(results)
        for provider in _providers(cases):
            for ax, quantity in zip(axes, (_milliseconds, _megabytes_kept), strict=True):
                known = [case for case in cases if quantity(case, provider) is not None]
                ax.plot([c["sizes"][axis] for c in known], [quantity(c, provider) for c in known], "o-", label=provider)
        for ax, label in zip(axes, ("forward and backward, ms", "kept for backward, MB"), strict=True):
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xlabel(axis)
            ax.set_ylabel(label)
            ax.grid(alpha=0.3)
        axes[0].legend(fontsize=8)

    return plot


def _draw_schemes(axes: list[Any], results: Results) -> None:
    """Joint attention relative to sequential, as tasks grow and as scales grow."""
    cases = scheme_cases(results)
    for ax, axis, (fixed, value) in zip(axes, ("tasks", "scales"), (("scales", 4), ("tasks", 4)), strict=True):
        line = sorted((c for c in cases if c["sizes"][fixed] == value), key=lambda case: case["sizes"][axis])
        for label, style, quantity in (
            ("operations", "k--", lambda entry: entry["cost"]["operations"]),
            ("time", "C0o-", lambda entry: entry["time"]["median"]),
            ("kept for backward", "C1s-", lambda entry: entry["kept_bytes"]),
            ("peak memory", "C2^-", lambda entry: entry["peak_bytes"]),
        ):
            ratios = [quantity(c["providers"][JOINT]) / quantity(c["providers"][SEQUENTIAL]) for c in line]
            ax.plot([case["sizes"][axis] for case in line], ratios, style, label=label)
        ax.axhline(1, color="grey", linewidth=0.8)
        ax.set_xticks([case["sizes"][axis] for case in line])
        ax.set_xlabel(f"{axis} ({value} {fixed})")
        ax.set_ylabel("joint / sequential")
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)


def _draw_training_step(axes: list[Any], results: Results) -> None:
    """Bars of what a training step keeps and of its time, relative to the baseline."""
    _, case = next(training_steps(results))
    for ax, title, quantity in zip(axes, ("kept for backward", "time"), (_kept, _milliseconds), strict=True):
        known = {name: x for name in case["providers"] if (x := quantity(case, name)) is not None}
        ratios = [x / known[case["baseline"]] for x in known.values()]
        names = [name_of(provider).replace("`", "") for provider in known]
        bars = ax.barh(names, ratios, color=["C1" if name.startswith("auto") else "0.7" for name in known])
        ax.bar_label(bars, [f"{ratio:.2f}×" for ratio in ratios], padding=4)
        ax.set_title(title, fontsize=10)
        ax.set_xlim(0, 1.2 * max(ratios))
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)


def _draw_roofline(axes: list[Any], results: Results) -> None:
    """Operations per second against operations per byte, below the measured limits; the unavoidable ones count.

    Cases without matrix products are left out: nothing is at zero on logarithmic axes.
    """
    (ax,) = axes
    cases, limits = _with_products(results), results["limits"]
    intensities = []
    for i, provider in enumerate(_providers(cases)):
        points = []
        for case in cases:
            entry = case["providers"].get(provider, {})
            if _on_roofline(entry):
                cost = entry["cost"]
                points.append((cost["operations"] / cost["bytes"], cost["operations"] / entry["time"]["median"] / 1e9))
        if not points:
            continue
        intensities += [x for x, _ in points]
        ax.plot(*zip(*points, strict=True), f"C{i}.", label=provider)
    ends = [min(intensities) / 2, max(intensities) * 4]
    for dtype in sorted({case["dtype"] for case in cases}):
        copy, peak = limits[COPY]["value"] / 1e9, limits[MATRIX][dtype]["value"] / 1e9
        knee = min(max(peak / copy, ends[0]), ends[1])
        ax.plot([ends[0], knee, ends[1]], [min(x * copy, peak) for x in (ends[0], knee, ends[1])], "k-", linewidth=1)
        ax.annotate(f"{MATRIX}, {dtype}", (ends[1], min(ends[1] * copy, peak)), ha="right", va="bottom", fontsize=8)
    ax.annotate(COPY, (ends[0], ends[0] * copy), fontsize=8, va="top")  # below the line, which rises
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("operations per byte that must be moved")
    ax.set_ylabel("10⁹ operations per second")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def _providers(cases: Cases) -> list[str]:
    return list(dict.fromkeys(provider for case in cases for provider in case["providers"]))


def _milliseconds(case: dict[str, Any], provider: str) -> float | None:
    time = case["providers"].get(provider, {}).get("time")
    return None if time is None else time["median"] * 1e3


def _kept(case: dict[str, Any], provider: str) -> float | None:
    return case["providers"].get(provider, {}).get("kept_bytes")


def _megabytes_kept(case: dict[str, Any], provider: str) -> float | None:
    kept = _kept(case, provider)
    return None if kept is None else kept / 1e6


AXES = ("tokens", "channels", "tasks", "scales")
"""Along which operators are swept."""

PLOTS: dict[str, tuple[str, Callable[[list[Any], Results], None], Callable[[Results], Cases]]] = {
    "training_step": (
        "Training step, less is better",
        _draw_training_step,
        lambda results: [case for _, case in training_steps(results)],
    ),
    "roofline": ("Operators with matrix products, below the machine's limits", _draw_roofline, _with_products),
    **{
        f"{operator}-{axis}": (f"{operator} against {axis}", _draw_sweep(operator, axis), _sweep(operator, axis))
        for operator, axis in product(OPERATORS, AXES)
    },
    "attention_schemes": ("Joint attention relative to sequential attention", _draw_schemes, scheme_cases),
}
"""By name: title, how it is drawn, and the cases it shows."""
