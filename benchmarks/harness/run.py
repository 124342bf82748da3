"""Runs cases: checks first, measures what is right, writes the result file case by case."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from seqca.ops.verification.judge import leaves

from .case import Case, Expected, Inputs, Provider, Selection
from .environment import last_level_cache
from .execution import Execution, TimedCall, conditions_of
from .judging import judge
from .limits import measure_limits
from .quantities import quantities
from .results import save
from .timing import Clock, clock_for, time_interleaved

MOST_INPUT_SETS = 128
Record = dict[str, Any]
Report = Callable[[str], None]


class Budget(NamedTuple):
    """What a run may take."""

    seconds: float
    """Spent on timing one provider, where its calls are short enough."""
    minutes: float
    """After which no further case is begun."""
    dtypes: tuple[str, ...] = ("fp32",)
    """Of all cases that the result file may hold; the machine's limits are measured in them."""


class Conditions(NamedTuple):
    """What a case is measured with."""

    clock: Clock
    seconds: float
    """See `Budget`."""
    seed: int
    """Of the inputs."""
    selection: Selection = Selection()
    """Of the providers."""


def run_all(
    cases: Sequence[Case], selection: Selection, results: Record, path: Path, budget: Budget, report: Report
) -> int:
    """Measures the cases that the results do not hold yet, and saves after each.

    Args:
        cases: in the order in which they are measured.
        selection: of their providers.
        results: of `results.resume`; changed.
        path: where they are saved.
        budget: of time.
        report: prints a line of progress.

    Returns:
        How many cases are left.
    """
    start, earlier = time.monotonic(), results.get("seconds")

    def keep() -> None:
        if earlier is not None:  # else the file began without, and a part would pass for the whole
            results["seconds"] = earlier + time.monotonic() - start
        save(results, path)

    left = [case for case in cases if not _measured(case, selection, results["cases"])]
    if len(left) < len(cases):
        report(f"{len(cases) - len(left)} of {len(cases)} cases are in {path} already")
    if not left:
        return 0
    device = cases[0].device
    if results["limits"] is None:
        report("measuring the machine's limits")
        results["limits"] = measure_limits(device, sorted({*budget.dtypes, "fp32"}))
        keep()
    clock, seed = clock_for(device), secrets.randbits(32)
    for i, case in enumerate(left):
        elapsed = (time.monotonic() - start) / 60
        if elapsed > budget.minutes:
            report(
                f"{budget.minutes:g} minutes are over; the same command with --output {path} measures the other cases"
            )
            return len(left) - i
        report(f"[{i + 1}/{len(left)}, {elapsed:.1f} min] {case.name}")
        # A provider that was measured before is measured again, so that all in a record have been measured together.
        before = _entries(case, results["cases"])
        together = replace(selection, providers=(*selection.providers, *before) if selection.providers else ())
        results["cases"][case.name] = run_case(case, Conditions(clock, budget.seconds, seed, together), report)
        keep()
    return 0


def _entries(case: Case, records: dict[str, Record]) -> dict[str, Record]:
    """What is recorded of a case, by provider."""
    entries: dict[str, Record] = records.get(case.name, {"providers": {}})["providers"]
    return entries


def _measured(case: Case, selection: Selection, records: dict[str, Record]) -> bool:
    """Whether there is a record of a case in which every selected provider has a time, or has failed."""
    entries, names = _entries(case, records), [provider.name for provider in selection.of(case).available]
    return all(name in entries and ("time" in entries[name] or not entries[name]["check"]["ok"]) for name in names)


def without_numbers(cases: Sequence[Case], selection: Selection, records: dict[str, Record]) -> list[str]:
    """The selected providers that were tried and have no time, with the reason."""
    found = []
    for case in cases:
        entries = _entries(case, records)
        for provider in selection.of(case).available:
            entry = entries.get(provider.name)
            if entry is not None and "time" not in entry:
                reason = "timing failed" if entry["check"]["ok"] else entry["check"]["what"]
                found.append(f"{case.name}, {provider.name}: {reason}")
    return found


def run_case(case: Case, conditions: Conditions, report: Report) -> Record:
    """Checks, measures and times the providers of one case.

    A provider that fails its check or raises has a reason in the place of numbers.
    """
    torch.compiler.reset()  # else the recompilations of earlier shapes count against the limit of this one
    if case.device == "cuda":
        torch.cuda.empty_cache()  # captured graphs of the case before
    providers = conditions.selection.of(case)
    record: Record = {
        "operator": case.operator,
        "shape": case.shape,
        "dtype": case.dtype,
        "direction": case.direction,
        "sizes": dict(case.sizes),
        "seed": conditions.seed,
        "baseline": case.baseline,
        "providers": {},
        "unavailable": dict(providers.unavailable),
    }
    ready: dict[str, tuple[Provider, Execution]] = {}
    expected: dict[str, Expected] = {}
    for provider in providers.available:
        try:
            if provider.computes not in expected:
                generator = torch.Generator(case.device).manual_seed(conditions.seed)
                expected[provider.computes] = case.expected(provider, generator)
        except Exception as error:  # nothing to check against, no numbers
            entry = {"check": failed(error)}
        else:
            entry, execution = checked(case, provider, expected[provider.computes])
        record["providers"][provider.name] = entry
        if entry["check"]["ok"]:
            ready[provider.name] = provider, execution
        else:
            report(f"    {provider.name}: NO NUMBERS: {entry['check']['what']}")
    expected.clear()
    if ready:
        sets, cold = input_sets(case, conditions.seed)
        record["input_sets"], record["inputs_past_cache"] = len(sets), cold
        calls: dict[str, list[TimedCall]] = {}
        for name, (provider, execution) in ready.items():
            try:
                with conditions_of(provider):
                    measured = quantities(case, provider, execution, sets[0])
                    calls[name] = [execution.call(inputs) for inputs in sets]
                record["providers"][name] |= measured
            except Exception as error:  # such as too little memory
                record["providers"][name]["check"] = failed(error)
                report(f"    {name}: NO NUMBERS: {error}")
        try:
            timings = timed(ready, calls, conditions)
        except Exception as error:  # any provider may have caused it, so none has a time
            timings = {}
            report(f"    NO TIMES: {error}")
        for name, timing in timings.items():
            record["providers"][name]["time"] = timing
            report(f"    {name}: {timing['median'] * 1e3:.4g} ms, noise {timing['noise']:.1%}")
    return record


def checked(case: Case, provider: Provider, expected: Expected) -> tuple[Record, Execution]:
    """The correctness check. It is the provider's first call, so its time is noted, compilation included."""
    execution, seconds = Execution(provider, case.direction), None
    try:
        with conditions_of(provider):
            start = time.perf_counter()
            results = execution.evaluate(expected.inputs)
            if case.device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        check = judge(case.judged(results), expected.exact, expected.allowance, case.norms)._asdict()
    except Exception as error:  # whatever a provider raises is its result
        check = failed(error)
    return {"check": check, "first_call": seconds, "cost": case.cost(provider)._asdict()}, execution


def input_sets(case: Case, seed: int) -> tuple[list[Inputs], bool]:
    """Input sets to go through in turn, which together exceed twice the last-level cache, and whether they do."""
    generator = torch.Generator(case.device).manual_seed(seed + 1)
    sets = [case.inputs(generator)]
    size = sum(storage for storage in _storages(sets[0]).values())
    wanted = -(-2 * last_level_cache(case.device) // max(size, 1))
    if case.parameters():  # a network's activations exceed every cache by themselves
        wanted, size = 1, 2 * last_level_cache(case.device)
    sets += [case.inputs(generator) for _ in range(min(wanted, MOST_INPUT_SETS) - 1)]
    return sets, len(sets) * size >= 2 * last_level_cache(case.device)


def _storages(inputs: Inputs) -> dict[int, int]:
    tensors = leaves(list(inputs.arguments.values()))
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}


def timed(
    ready: dict[str, tuple[Provider, Execution]], calls: dict[str, list[TimedCall]], conditions: Conditions
) -> dict[str, Record]:
    """Times of all providers, interleaved."""

    @contextmanager
    def activate(name: str) -> Iterator[None]:
        with conditions_of(ready[name][0]):
            yield

    timings = time_interleaved(calls, activate, conditions.clock, conditions.seconds)
    return {name: timing._asdict() for name, timing in timings.items()}


def failed(error: Exception) -> Record:
    """The check of a provider that raised."""
    return {"ok": False, "worst": None, "what": f"{type(error).__name__}: {str(error).strip()[:500]}"}
