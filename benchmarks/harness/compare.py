"""What changed between two results beyond noise."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .noise import differs
from .results import ResultsError, counted, load
from .revisions import measure_in_turn

EXACT = ("kept_bytes", "peak_bytes", "operators", "kernels")
"""Quantities without noise; the fewer the better."""
PEAK_SLACK = 4096
"""Bytes by which a peak may differ for nothing but an allocator's rounding."""
MACHINE = ("device", "gpu", "processor")
"""What must be the same for a comparison to mean anything."""
SOFTWARE = ("torch", "threads", "tf32")
"""What may be what is compared, and is named where it differs."""


class Change(NamedTuple):
    """One quantity of one provider that is not what it was."""

    where: str
    what: str
    before: float
    after: float

    @property
    def worse(self) -> bool:
        """Whether it is a regression."""
        return self.after > self.before

    def __str__(self) -> str:
        factor = f" {self.after / self.before:.3f} times" if self.before else ""
        return f"{'WORSE ' if self.worse else 'better'}  {self.where}: {self.what}{factor}"


def compare_files(before: Path, after: Path) -> int:
    """Prints what changed from one result file to another.

    Returns:
        1 if anything is worse, else 0.

    Raises:
        ResultsError: if the files are from different machines, or have no case in common.
    """
    return show(load(before), load(after))


def compare_revision(revision: str, options: list[str]) -> int:
    """Measures a git revision and this checkout in turn, and prints what changed."""
    return show(*measure_in_turn(revision, options))


def show(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Prints other conditions, then changes, the worst last, and returns the exit status."""
    one, other = before["environment"], after["environment"]
    differing = [f"{key} {one.get(key)!r} and {other.get(key)!r}" for key in MACHINE if one.get(key) != other.get(key)]
    if differing:
        raise ResultsError(f"results: got those of {'; '.join(differing)}, expected one machine")
    for key in SOFTWARE:
        if one.get(key) != other.get(key):
            print(f"different {key}: {one.get(key)} and {other.get(key)}")
    if before["settings"] != after["settings"]:
        print(f"different settings: {before['settings']} and {after['settings']}")
    common = before["cases"].keys() & after["cases"].keys()
    if not common:
        raise ResultsError("results: got two with no case in common, expected at least one")
    found = sorted(changes(before, after), key=lambda change: change.worse)
    for change in found:
        print(change)
    worse = sum(change.worse for change in found)
    better = len(found) - worse
    print(f"{counted(len(common), 'case')} compared: {worse} worse, {better} better, the rest the same within noise")
    return 1 if worse else 0


def changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    """All changes in the cases that both results hold.

    On a GPU times are compared as they are. On a CPU, which is shared more often than not, the time of a provider
    is taken relative to that of the baseline in the same run: of the older result's, which the newer one may hold as an
    ordinary provider.
    """
    relative = before["environment"]["device"] == "cpu"
    for name, old in before["cases"].items():
        new = after["cases"].get(name)
        if new is None:
            continue
        for provider, one in old["providers"].items():
            where = f"{name}, {provider}"
            other = new["providers"].get(provider)
            if one["check"]["ok"] and provider in new["unavailable"]:
                yield Change(where, f"unavailable: {new['unavailable'][provider]}", 0, 1)
            if one["check"]["ok"] and other is not None and not other["check"]["ok"]:
                yield Change(where, f"no numbers: {other['check']['what']}", 0, 1)
            if other is None or not (one["check"]["ok"] and other["check"]["ok"]):
                continue
            if "time" in one and "time" not in other:
                yield Change(where, "no time", 0, 1)
            for what in EXACT:
                slack = PEAK_SLACK if what == "peak_bytes" else 0
                if what in one and what in other and abs(one[what] - other[what]) > slack:
                    yield Change(where, what.replace("_", " "), one[what], other[what])
            baseline = old["baseline"] if relative else None
            times = [_time(case, provider, baseline) for case in (old, new)]
            if times[0] and times[1] and differs(times[0], times[1]):
                what = f"time relative to the {baseline}" if relative else "time"
                yield Change(where, what, times[0]["median"], times[1]["median"])


def _time(case: dict[str, Any], provider: str, baseline: str | None) -> dict[str, float] | None:
    """Median and noise of a provider, relative to those of a baseline if one is given."""
    time = case["providers"][provider].get("time")
    if time is None or baseline is None:
        return time
    unit = case["providers"].get(baseline, {}).get("time")
    if unit is None or provider == baseline:
        return None
    return {"median": time["median"] / unit["median"], "noise": time["noise"] + unit["noise"]}
