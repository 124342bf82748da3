"""Tables in Markdown, from results."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..cases.attention_schemes import JOINT, SEQUENTIAL, pairs
from ..cases.shapes import CHANNELS
from ..harness.case import Cost
from ..harness.limits import COPY, EXPONENTIALS, MATRIX, utilisation
from ..harness.noise import FLOOR, differs
from ..harness.results import counted

Results = dict[str, Any]
NOTHING = "–"
VERSIONS = ("driver", "clocks", "torch", "cuda", "triton", "python")
"""What a table of conditions tells of the environment, where it is known."""
LABELS = {"published": "published sequence", "reference": "plain reference", "auto": "`seqca`"}
"""What readers call the network's providers."""


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
    """All cases of an operator, provider by provider, in order of time; empty if there is none.

    On a CPU, percentiles are multiples of the baseline's median, as the time is.
    """
    gpu = results["environment"]["device"] == "cuda"
    cases = {name: case for name, case in results["cases"].items() if case["operator"] == operator}
    if not cases:
        return ""
    baseline = next(iter(cases.values()))["baseline"]
    header = ["case", "provider", *(["ms (p20 – p80)"] if gpu else []), f"time / {baseline}"]
    header += [*([] if gpu else ["p20 – p80"]), "noise", "of the limit"]
    header += ["kept", "peak", "kernels" if gpu else "operators", "first call"]
    rows = []
    for name, case in cases.items():
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
    return markdown(header, rows)


def unavailabilities(results: Results) -> str:
    """The providers that were unavailable, with the reason, and in how many cases; empty if there were none."""
    found: dict[tuple[str, str], int] = {}
    for case in results["cases"].values():
        for provider, reason in case["unavailable"].items():
            key = (f"{case['operator']}: {provider}", reason.partition(" (")[0] if "cannot run" in reason else reason)
            found[key] = found.get(key, 0) + 1
    rows = [(provider, reason, str(number)) for (provider, reason), number in sorted(found.items())]
    return markdown(("unavailable", "reason", "cases"), rows) if rows else ""


def training_table(results: Results) -> str:
    """The training step: what it keeps, on a GPU what it launches, and its time relative to the baseline."""
    gpu = results["environment"]["device"] == "cuda"
    name, case = next(training_steps(results))
    baseline = case["providers"][case["baseline"]]
    header = ["", "kept for backward", *(["kernels", "ms"] if gpu else []), "time"]
    rows = []
    for provider, entry in case["providers"].items():
        if "time" not in entry:
            continue
        launched = _beside(count, entry.get("kernels"), baseline["kernels"]) if gpu else ""
        rows.append([
            name_of(provider), _beside(size, entry.get("kept_bytes"), baseline["kept_bytes"]),
            *([launched, f"{entry['time']['median'] * 1e3:.4g}"] if gpu else []), relative_time(case, provider),
        ])  # fmt: skip
    sizes, where = case["sizes"], results["environment"]
    images = "one image" if sizes["batch"] == 1 else f"{sizes['batch']} images"
    caption = (
        f"Training step without optimiser, {images} of {sizes['height']}×{sizes['width']}, {sizes['tasks']} tasks, "
        f"{case['dtype']}; time relative to the {LABELS[case['baseline']]} in the same process, ± its noise. "
        f"{device_name(results)}; torch {where['torch']}; commit {where['commit'][:8]}. "
        f"`python -m benchmarks run --op network --shape {name.split('/')[1]}`"
    )
    return markdown(header, rows) + "\n\n" + caption


def name_of(provider: str) -> str:
    """What readers call a provider of the network, in the mode that its name ends with."""
    base, *mode = provider.split(", ", 1)
    return ", ".join([LABELS.get(base, base), *mode])


def training_steps(results: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cases of the training step whose baseline has numbers; four tasks first."""
    for name, case in results["cases"].items():
        step = case["operator"] == "network" and case["direction"] == "both"
        if step and "time" in case["providers"].get(case["baseline"], {}):
            yield name, case


def scheme_table(results: Results) -> str:
    """The two schemes: pairs and operations counted, time and memory measured, joint relative to sequential.

    Empty if there is no case of it.
    """
    rows = []
    for case in scheme_cases(results):
        tasks, scales = case["sizes"]["tasks"], case["sizes"]["scales"]
        first, second = (case["providers"][scheme] for scheme in (SEQUENTIAL, JOINT))
        rows.append([
            f"{counted(tasks, 'task')}, {counted(scales, 'scale')}",
            f"{pairs(SEQUENTIAL, tasks, scales)} / {pairs(JOINT, tasks, scales)}",
            f"{second['cost']['operations'] / first['cost']['operations']:.2f}",
            f"{second['time']['median'] / first['time']['median']:.2f}{_mark(second['time'], first['time'])}",
            f"{second['kept_bytes'] / first['kept_bytes']:.2f}", f"{second['peak_bytes'] / first['peak_bytes']:.2f}",
        ])  # fmt: skip
    if not rows:
        return ""
    header = ("", "pairs: sequential / joint", "operations", "time", "kept", "peak")
    return markdown(header, rows) + "\n\n" + crossing(results)


def scheme_cases(results: Results) -> list[dict[str, Any]]:
    """The cases in which both schemes have numbers."""
    cases = [case for case in results["cases"].values() if case["operator"] == "attention_schemes"]
    return [case for case in cases if all("time" in case["providers"].get(s, {}) for s in (SEQUENTIAL, JOINT))]


def crossing(results: Results) -> str:
    """From how many tasks, and scales, on sequential attention takes less time at all sizes measured.

    For one task or one scale the two are the same, so those say nothing.
    """

    def from_where(axis: str, fixed: dict[str, int]) -> str:
        cases = [c for c in scheme_cases(results) if all(c["sizes"][key] == value for key, value in fixed.items())]
        first = None
        differing = sorted((c for c in cases if c["sizes"][axis] > 1), key=lambda case: case["sizes"][axis])
        for case in differing:
            one, other = (case["providers"][scheme]["time"] for scheme in (SEQUENTIAL, JOINT))
            wins = differs(one, other) and one["median"] < other["median"]
            first = (first or case["sizes"][axis]) if wins else None
        if first is None:
            return f"at no number of {axis} measured"
        if first == differing[0]["sizes"][axis]:  # where they crossed, if they did, was not measured
            return f"at every number of {axis} measured above one"
        return f"from {first} {axis} on"

    return (
        f"Sequential attention takes less time, beyond noise, {from_where('tasks', {'scales': len(CHANNELS)})} "
        f"(with four scales) and {from_where('scales', {'tasks': 4})} (with four tasks). For one task or one scale the "
        "two schemes are the same; everywhere else sequential attention needs fewer operations."
    )


def relative_time(case: dict[str, Any], provider: str) -> str:
    """Time as a multiple of the baseline's, with its noise."""
    time, unit = case["providers"][provider]["time"], _unit(case)
    if provider == case["baseline"]:
        return "1"
    return f"{time['median'] / unit['median']:.2f}{_mark(time, unit)}" if unit else NOTHING


def relative_percentiles(case: dict[str, Any], provider: str) -> str:
    """The 20th and the 80th percentile of the time as multiples of the baseline's median."""
    time, unit = case["providers"][provider]["time"], _unit(case)
    return f"{time['p20'] / unit['median']:.2f} – {time['p80'] / unit['median']:.2f}" if unit else NOTHING


def _unit(case: dict[str, Any]) -> dict[str, float] | None:
    """The baseline's time, None if it has none."""
    return case["providers"].get(case["baseline"], {}).get("time")


def limit_share(results: Results, case: dict[str, Any], provider: str) -> str:
    """The fraction of the nearest limit, and its name."""
    entry = case["providers"][provider]
    nearest = utilisation(Cost(**entry["cost"]), case["dtype"], results["limits"], entry["time"]["median"])
    return f"{nearest.fraction:.0%} of {nearest.limit}" if nearest.fraction >= 0.01 else f"<1% of {nearest.limit}"


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


def _beside(form: Any, number: float | None, baseline: float) -> str:
    """A number, and what multiple of the baseline's it is."""
    if number is None or number == baseline:
        return str(form(number))
    return f"{form(number)} ({number / baseline:.2f}×)"


def _mark(one: dict[str, float], other: dict[str, float]) -> str:
    noise = max(one["noise"], other["noise"], FLOOR)
    return f" ± {noise:.0%}" + ("" if differs(one, other) else " (noise)")


def _by_time(item: tuple[str, dict[str, Any]]) -> float:
    return item[1].get("time", {}).get("median", float("inf"))
