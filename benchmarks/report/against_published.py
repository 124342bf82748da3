"""Operators and the network against the published sequence: what is to be reached, how time and kept bytes grow."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from seqca.ops.shared.dispatch import BACKENDS

from .tables import Results, markdown, relative_time, size

AXES = {"scales": "scale", "channels": "channel", "tasks": "task", "tokens": "pixel"}
"""That operators are swept along, and one of what is counted there."""


class Goal(NamedTuple):
    """What an operator or the network is to reach, as a multiple of the published sequence."""

    operator: str
    shape: str
    """How the names of its shapes begin."""
    quantity: str
    """`time` or `kept`."""
    most: float


GOALS = (
    Goal("aggregation_head", "nyud-", "time", 1 / 2),
    Goal("aggregation_head", "nyud-", "kept", 1 / 12),
    Goal("cross_attention", "nyud-scale0-tasks4", "time", 1),
    Goal("cross_attention", "nyud-scale0-tasks4", "kept", 1 / 8),
    Goal("network", "training-nyud-tasks4", "time", 0.55),
    Goal("network", "training-nyud-tasks4", "kept", 0.25),
)
"""Forward and backward on a CPU, one image of 480×640 in float32; of the network a whole training step."""


def goal_table(results: Results) -> str:
    """Every goal, case by case, with what was measured; empty if nothing was."""
    rows = []
    if results["environment"]["device"] == "cpu":
        for goal in GOALS:
            for case, backend in _compared(results, goal.operator):
                if case["shape"].startswith(goal.shape):
                    found = _ratio(case, backend, goal.quantity)
                    measured = relative_time(case, backend) if goal.quantity == "time" else f"{found:.3f}"
                    noise = _noise(case, backend) if goal.quantity == "time" else 0.0
                    reached = "yes" if found <= goal.most else "no"
                    if abs(found - goal.most) <= noise * found:
                        reached += ", within noise"
                    rows.append([f"`{goal.operator}`, {case['shape']}: {goal.quantity}", f"{goal.most:.3g}", measured,
                                 reached])  # fmt: skip
    return markdown(("multiple of the published sequence", "at most", "measured", "reached"), rows) if rows else ""


def growth_table(operator: str) -> Callable[[Results], str]:
    """The table of an operator's cases, those of the network first, then its sweeps; empty if there is none."""

    def table(results: Results) -> str:
        rows = []
        for case, backend in sorted(_compared(results, operator), key=lambda found: _order(found[0])):
            kept = [case["providers"][name]["kept_bytes"] for name in (case["baseline"], backend)]
            rows.append([_label(case), relative_time(case, backend), *map(size, kept), f"{kept[1] / kept[0]:.3f}"])
        header = ("forward and backward", "time / published", "kept: published", "kept: `seqca`", "kept / published")
        return markdown(header, rows) if rows else ""

    return table


def _compared(results: Results, operator: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The cases that have the published sequence, forward and backward, each with its fastest backend."""
    for case in results["cases"].values():
        if case["operator"] == operator and case["direction"] == "both" and case["baseline"] == "published":
            times = {name: entry["time"]["median"] for name, entry in case["providers"].items() if "time" in entry}
            own = [name for name in ("auto", *BACKENDS[1:]) if name in times]
            if "published" in times and own:
                yield case, min(own, key=lambda name: times[name])


def _ratio(case: dict[str, Any], backend: str, quantity: str) -> float:
    one, unit = (case["providers"][name] for name in (backend, case["baseline"]))
    if quantity == "kept":
        return float(one["kept_bytes"] / unit["kept_bytes"])
    return float(one["time"]["median"] / unit["time"]["median"])


def _noise(case: dict[str, Any], backend: str) -> float:
    """Of the ratio of times, as a fraction."""
    return float(max(case["providers"][name]["time"]["noise"] for name in (backend, case["baseline"])))


def _order(case: dict[str, Any]) -> tuple[int, int]:
    axis = case["shape"].partition("/")[0]
    return (list(AXES).index(axis) + 1, case["sizes"][axis]) if axis in AXES else (0, 0)


def _label(case: dict[str, Any]) -> str:
    """The shape; in a sweep, how many there are of what is counted."""
    axis = case["shape"].partition("/")[0]
    if axis not in AXES:
        return str(case["shape"])
    number = case["sizes"][axis]
    return f"{number:,} {AXES[axis]}" + ("" if number == 1 else "s")
