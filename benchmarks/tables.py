"""Tables in Markdown, from results."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .case import Cost
from .claim import AT_ONCE, SEQUENTIAL, pairs
from .limits import COPY, EXPONENTIALS, MATRIX, share
from .noise import FLOOR, differs
from .shapes import CHANNELS

Results = dict[str, Any]
NOTHING = "–"
VERSIONS = ("driver", "clocks", "torch", "cuda", "triton", "python")
"""What a table of conditions tells of the environment, where it is known."""


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def device_name(results: Results) -> str:
    """The machine, in words."""
    where = results["environment"]
    return where["gpu"] if where["device"] == "cuda" else f"{where['processor']}, {where['threads']} threads"


def conditions(results: Results) -> str:
    """What a result was measured on, how long that took where it is known, and the measured limits."""
    where, limits, seconds = results["environment"], results["limits"], results.get("seconds")
    rows = [
        ("device", device_name(results)),
        *([] if seconds is None else [("measured in", f"{seconds / 60:.1f} min")]),
        *((key, str(where[key])) for key in VERSIONS if where.get(key)),
        ("commit", f"{where['commit']}{' with changes' if where['dirty'] else ''}"),
        *((f"tree of {tree}/", str(digest or "none")) for tree, digest in where["trees"].items()),
        ("TF32", ", ".join(f"{what}: {'on' if on else 'off'}" for what, on in where["tf32"].items())),
        (f"{COPY} ({limits[COPY]['how']})", f"{limits[COPY]['value'] / 1e9:,.1f} GB/s"),
        *(
            (f"{MATRIX} in {dtype} ({entry['how']})", f"{entry['value'] / 1e12:,.3f} TFLOP/s")
            for dtype, entry in limits[MATRIX].items()
        ),
        (f"{EXPONENTIALS} ({limits[EXPONENTIALS]['how']})", f"{limits[EXPONENTIALS]['value'] / 1e9:,.2f} G/s"),
    ]
    return markdown(("what", "value"), rows)


def operator_table(results: Results, operator: str) -> str:
    """All cases of an operator, contender by contender, in order of time; empty if there is none.

    On a CPU, percentiles are multiples of the reference's median, as the time is.
    """
    gpu = results["environment"]["device"] == "cuda"
    header = ["case", "provider", *(["ms (p20 – p80)"] if gpu else []), "time / reference"]
    header += [*([] if gpu else ["p20 – p80"]), "noise", "of the limit"]
    header += ["kept", "peak", "kernels" if gpu else "operators", "first call"]
    rows = []
    for name, case in results["cases"].items():
        if case["operator"] != operator:
            continue
        for provider, entry in sorted(case["providers"].items(), key=_by_time):
            label = name.partition("/")[2]
            if "time" not in entry:
                reason = entry["check"]["what"].replace("|", "/").replace("\n", " ")[:120]
                rows.append([label, provider, f"no numbers: {reason}", *[""] * (len(header) - 3)])
                continue
            time = entry["time"]
            milliseconds = f"{time['median'] * 1e3:.4g} ({time['p20'] * 1e3:.4g} – {time['p80'] * 1e3:.4g})"
            rows.append([
                label, provider, *([milliseconds] if gpu else []), relative_time(case, provider),
                *([] if gpu else [relative_percentiles(case, provider)]),
                f"{max(time['noise'], FLOOR):.1%}", limit_share(results, case, provider), size(entry.get("kept_bytes")),
                size(entry.get("peak_bytes")), count(entry.get("kernels" if gpu else "operators")),
                f"{entry['first_call']:.2g} s",
            ])  # fmt: skip
    return markdown(header, rows) if rows else ""


def absences(results: Results) -> str:
    """Who is absent, with the reason, and from how many cases; empty if nobody is."""
    found: dict[tuple[str, str], int] = {}
    for case in results["cases"].values():
        for provider, reason in case["absent"].items():
            key = (f"{case['operator']}: {provider}", reason.partition(" (")[0] if "cannot run" in reason else reason)
            found[key] = found.get(key, 0) + 1
    rows = [(provider, reason, str(number)) for (provider, reason), number in sorted(found.items())]
    return markdown(("absent", "reason", "cases"), rows) if rows else ""


def training_table(results: Results) -> str:
    """The training step: what it keeps, what it runs, and how long it takes relative to the reference."""
    gpu = results["environment"]["device"] == "cuda"
    name, case = next(training_steps(results))
    reference = case["providers"]["reference"]
    header = ["", "kept for backward", "kernels" if gpu else "operators run", *(["ms"] if gpu else []), "time"]
    rows = []
    for provider, entry in case["providers"].items():
        if "time" not in entry:
            continue
        milliseconds = [f"{entry['time']['median'] * 1e3:.4g}"] if gpu else []
        rows.append([
            {"reference": "eager reference", "auto": "`seqca`"}.get(provider, provider),
            _beside(size, entry.get("kept_bytes"), reference["kept_bytes"]),
            _beside(count, entry.get(what := "kernels" if gpu else "operators"), reference[what]),
            *milliseconds, relative_time(case, provider),
        ])  # fmt: skip
    sizes, where = case["sizes"], results["environment"]
    images = "one image" if sizes["batch"] == 1 else f"{sizes['batch']} images"
    caption = (
        f"Training step without optimiser, {images} of {sizes['height']}×{sizes['width']}, {sizes['tasks']} tasks, "
        f"{case['dtype']}; time relative to the reference in the same process, ± its noise. {device_name(results)}; "
        f"torch {where['torch']}; commit {where['commit'][:8]}. "
        f"`python -m benchmarks run --op network --shape {name.split('/')[1]}`"
    )
    return markdown(header, rows) + "\n\n" + caption


def training_steps(results: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cases of the training step, whose reference has numbers; four tasks first."""
    for name, case in results["cases"].items():
        step = case["operator"] == "network" and case["direction"] == "both"
        if step and "time" in case["providers"].get("reference", {}):
            yield name, case


def claim_table(results: Results) -> str:
    """The two schemes: pairs and operations counted, time and memory measured, at once relative to sequential.

    Empty if there is no case of it.
    """
    rows = []
    for case in claim_cases(results):
        tasks, scales = case["sizes"]["tasks"], case["sizes"]["scales"]
        first, second = (case["providers"][scheme] for scheme in (SEQUENTIAL, AT_ONCE))
        rows.append([
            f"{tasks} tasks, {scales} scales",
            f"{pairs(SEQUENTIAL, tasks, scales)} / {pairs(AT_ONCE, tasks, scales)}",
            f"{second['cost']['operations'] / first['cost']['operations']:.2f}",
            f"{second['time']['median'] / first['time']['median']:.2f}{_mark(second['time'], first['time'])}",
            f"{second['kept_bytes'] / first['kept_bytes']:.2f}", f"{second['peak_bytes'] / first['peak_bytes']:.2f}",
        ])  # fmt: skip
    if not rows:
        return ""
    header = ("", "pairs: sequential / at once", "operations", "time", "kept", "peak")
    return markdown(header, rows) + "\n\n" + crossing(results)


def claim_cases(results: Results) -> list[dict[str, Any]]:
    """The cases in which both schemes have numbers."""
    cases = [case for case in results["cases"].values() if case["operator"] == "claim"]
    return [case for case in cases if all("time" in case["providers"].get(s, {}) for s in (SEQUENTIAL, AT_ONCE))]


def crossing(results: Results) -> str:
    """From how many tasks, and scales, on sequential attention takes less time at all sizes measured.

    For one task or one scale the two are the same, so those say nothing.
    """

    def from_where(axis: str, fixed: dict[str, int]) -> str:
        cases = [c for c in claim_cases(results) if all(c["sizes"][key] == value for key, value in fixed.items())]
        first = None
        differing = sorted((c for c in cases if c["sizes"][axis] > 1), key=lambda case: case["sizes"][axis])
        for case in differing:
            one, other = (case["providers"][scheme]["time"] for scheme in (SEQUENTIAL, AT_ONCE))
            wins = differs(one, other) and one["median"] < other["median"]
            first = (first or case["sizes"][axis]) if wins else None
        if first is None:
            return "never within these sizes"
        if first == differing[0]["sizes"][axis]:  # where they crossed, if they did, was not measured
            return f"already at {first} {axis}, the fewest measured for which the two differ"
        return f"from {first} {axis} on"

    return (
        f"Beyond noise, sequential attention takes less time {from_where('tasks', {'scales': len(CHANNELS)})} "
        f"(four scales), and {from_where('scales', {'tasks': 4})} (four tasks). By count the two are equal for one "
        "task or one scale, and sequential needs less everywhere else."
    )


def relative_time(case: dict[str, Any], provider: str) -> str:
    """Time as a multiple of the reference's, with its noise."""
    time, rival = case["providers"][provider]["time"], case["providers"].get("reference", {}).get("time")
    if rival is None:
        return NOTHING
    if provider == "reference":
        return "1"
    ratio = time["median"] / rival["median"]
    return f"{ratio:.2f}{_mark(time, rival)}"


def relative_percentiles(case: dict[str, Any], provider: str) -> str:
    """The 20th and the 80th percentile of the time as multiples of the reference's median."""
    time, rival = case["providers"][provider]["time"], case["providers"].get("reference", {}).get("time")
    if rival is None:
        return NOTHING
    return f"{time['p20'] / rival['median']:.2f} – {time['p80'] / rival['median']:.2f}"


def limit_share(results: Results, case: dict[str, Any], provider: str) -> str:
    """The share of the nearest limit, and its name."""
    entry = case["providers"][provider]
    nearest = share(Cost(**entry["cost"]), case["dtype"], results["limits"], entry["time"]["median"])
    return f"{nearest.share:.0%} of {nearest.limit}" if nearest.share >= 0.01 else f"<1% of {nearest.limit}"


def size(number: float | None) -> str:
    """Bytes, made for reading."""
    if number is None:
        return NOTHING
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def count(number: int | None) -> str:
    """A count, made for reading."""
    return NOTHING if number is None else f"{number:,}"


def _beside(form: Any, number: float | None, reference: float) -> str:
    """A number, and what share of the reference's it is."""
    if number is None or number == reference:
        return str(form(number))
    return f"{form(number)} ({number / reference:.2f}×)"


def _mark(one: dict[str, float], other: dict[str, float]) -> str:
    noise = max(one["noise"], other["noise"], FLOOR)
    return f" ± {noise:.0%}" + ("" if differs(one, other) else " (noise)")


def _by_time(item: tuple[str, dict[str, Any]]) -> float:
    return item[1].get("time", {}).get("median", float("inf"))
