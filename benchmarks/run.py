"""Runs cases: checks first, measures what is right, writes the result file case by case."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from seqca.ops.shared.dispatch import use_backend
from seqca.ops.verification.judge import leaves

from .case import Case, Contender, Inputs, Truth
from .cases import Choice
from .clock import Clock, clock_for
from .counting import launched_kernels, operators_run
from .environment import last_level_cache
from .execution import Call, Execution
from .limits import measure_limits
from .memory import kept_bytes, peak_bytes
from .results import save
from .shapes import Plan
from .timing import time_interleaved

MOST_INPUT_SETS = 128
RIVAL_SLACK = 4
"""The compiled reference is a rival and not under test: that the compiler rounds otherwise must not exclude it, so its
errors may be so many times what is allowed to others."""
Record = dict[str, Any]
Report = Callable[[str], None]


class Conditions(NamedTuple):
    """What a run is measured with."""

    clock: Clock
    seconds: float
    """Spent on timing one contender, where calls are short enough."""
    seed: int
    """Of the inputs."""
    choice: Choice = Choice()
    """Who takes part."""


def run_all(
    cases: Sequence[Case],
    choice: Choice,
    results: dict[str, Any],
    path: Path,
    plan: Plan,
    report: Report,
) -> int:
    """Measures the cases that the results do not hold yet, and saves after each.

    Args:
        cases: in the order in which they are measured.
        choice: whom they are narrowed to.
        results: of `results.resume`; changed.
        path: where they are saved.
        plan: its `seconds` per contender, and `minutes` after which no further case is begun.
        report: prints a line of progress.

    Returns:
        How many cases are left.
    """
    start, earlier = time.monotonic(), results.get("seconds")

    def keep() -> None:
        if earlier is not None:  # else the file began without, and a part would pass for the whole
            results["seconds"] = earlier + time.monotonic() - start
        save(results, path)

    left = [case for case in cases if not _measured(case, choice, results["cases"])]
    if len(left) < len(cases):
        report(f"{len(cases) - len(left)} of {len(cases)} cases are in {path} already")
    if not left:
        return 0
    device = cases[0].device
    if results["limits"] is None:
        report("measuring the machine's limits")
        results["limits"] = measure_limits(device, sorted({*plan.dtypes, plan.sweep_dtype, "fp32"}))
        keep()
    clock, seed = clock_for(device), secrets.randbits(32)
    for i, case in enumerate(left):
        elapsed = (time.monotonic() - start) / 60
        if elapsed > plan.minutes:
            report(f"{plan.minutes:g} minutes are over; the same command with --output {path} measures the other cases")
            return len(left) - i
        report(f"[{i + 1}/{len(left)}, {elapsed:.1f} min] {case.name}")
        # Whoever was measured before is again, so that all in a record have been measured together.
        before = _entries(case, results["cases"])
        together = replace(choice, providers=(*choice.providers, *before) if choice.providers else ())
        results["cases"][case.name] = run_case(case, Conditions(clock, plan.seconds, seed, together), report)
        keep()
    return 0


def _entries(case: Case, records: dict[str, Record]) -> dict[str, Record]:
    """What is recorded of a case, by provider."""
    entries: dict[str, Record] = records.get(case.name, {"providers": {}})["providers"]
    return entries


def _measured(case: Case, choice: Choice, records: dict[str, Record]) -> bool:
    """Whether there is a record of a case in which everybody who is chosen has a time, or has failed."""
    entries = _entries(case, records)
    names = [contender.name for contender in choice.narrow(case.contenders()).contenders]
    return all(name in entries and ("time" in entries[name] or not entries[name]["check"]["ok"]) for name in names)


def without_numbers(cases: Sequence[Case], choice: Choice, records: dict[str, Record]) -> list[str]:
    """Who of those chosen has been tried and has no time, with the reason."""
    found = []
    for case in cases:
        entries = _entries(case, records)
        for contender in choice.narrow(case.contenders()).contenders:
            entry = entries.get(contender.name)
            if entry is not None and "time" not in entry:
                reason = "timing failed" if entry["check"]["ok"] else entry["check"]["what"]
                found.append(f"{case.name}, {contender.name}: {reason}")
    return found


def run_case(case: Case, conditions: Conditions, report: Report) -> Record:
    """Checks, measures and times the contenders of one case.

    A contender that fails its check or raises has a reason in the place of numbers.
    """
    torch.compiler.reset()  # else the recompilations of earlier shapes count against the limit of this one
    if case.device == "cuda":
        torch.cuda.empty_cache()  # captured graphs of the case before
    field = conditions.choice.narrow(case.contenders())
    record: Record = {
        "operator": case.operator,
        "shape": case.shape,
        "dtype": case.dtype,
        "direction": case.direction,
        "sizes": dict(case.sizes),
        "seed": conditions.seed,
        "providers": {},
        "absent": dict(field.absent),
    }
    ready: dict[str, tuple[Contender, Execution]] = {}
    truths: dict[str, Truth] = {}
    for contender in field.contenders:
        try:
            if contender.computes not in truths:
                generator = torch.Generator(case.device).manual_seed(conditions.seed)
                truths[contender.computes] = case.truth(contender, generator)
        except Exception as error:  # no truth, no numbers
            entry = {"check": failed(error)}
        else:
            entry, execution = checked(case, contender, truths[contender.computes])
        record["providers"][contender.name] = entry
        if entry["check"]["ok"]:
            ready[contender.name] = contender, execution
        else:
            report(f"    {contender.name}: NO NUMBERS: {entry['check']['what']}")
    truths.clear()
    if ready:
        sets, cold = input_sets(case, conditions.seed)
        record["input_sets"], record["inputs_past_cache"] = len(sets), cold
        calls: dict[str, list[Call]] = {}
        for name, (contender, execution) in ready.items():
            try:
                with use_backend(contender.backend):
                    measured = quantities(case, contender, execution, sets[0])
                    calls[name] = [execution.call(inputs) for inputs in sets]
                record["providers"][name] |= measured
            except Exception as error:  # such as too little memory
                record["providers"][name]["check"] = failed(error)
                report(f"    {name}: NO NUMBERS: {error}")
        try:
            timings = timed(ready, calls, conditions)
        except Exception as error:  # it may be anybody's, so nobody has a time
            timings = {}
            report(f"    NO TIMES: {error}")
        for name, timing in timings.items():
            record["providers"][name]["time"] = timing
            report(f"    {name}: {timing['median'] * 1e3:.4g} ms, noise {timing['noise']:.1%}")
    return record


def checked(case: Case, contender: Contender, truth: Truth) -> tuple[Record, Execution]:
    """The correctness check. It is the contender's first call, so its time is noted, compilation included."""
    execution = Execution(contender, case.direction)
    first = _FirstCall(execution, case.device)
    try:
        with use_backend(contender.backend):
            check = case.check(first, truth)._asdict()
        if contender.backend == "reference" and contender.compiled:
            check["ok"] = check["worst"] <= RIVAL_SLACK
    except Exception as error:  # whatever a contender raises is its result
        check = failed(error)
    return {"check": check, "first_call": first.seconds, "cost": case.cost(contender)._asdict()}, execution


class _FirstCall(Execution):
    """An execution that notes the seconds of its evaluation."""

    def __init__(self, execution: Execution, device: str) -> None:
        self._inner, self._device = execution, device
        self.seconds: float | None = None

    def evaluate(self, inputs: Inputs) -> list[torch.Tensor]:
        """As the execution does."""
        start = time.perf_counter()
        results = self._inner.evaluate(inputs)
        if self._device == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - start
        return results


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


def quantities(case: Case, contender: Contender, execution: Execution, inputs: Inputs) -> Record:
    """What does not depend on the clock: memory, and operators or kernels."""
    entry: Record = {}
    if case.direction == "both" and not contender.captured:
        entry["kept_bytes"] = kept_bytes(lambda: execution.forward(inputs), case.parameters())
    call = execution.call(inputs)
    if case.direction != "backward":
        # The memory of a graph is allocated when it is captured.
        entry["peak_bytes"] = peak_bytes(
            lambda: execution.call(inputs) if contender.captured else call.run(None), case.device
        )
    state = call.prepare()
    if case.device == "cuda":
        entry["kernels"] = launched_kernels(lambda: call.run(state))
    elif contender.mode == "eager":
        entry["operators"] = operators_run(lambda: call.run(state))
    return entry


def timed(
    ready: dict[str, tuple[Contender, Execution]], calls: dict[str, list[Call]], conditions: Conditions
) -> dict[str, Record]:
    """Times of all contenders, interleaved."""

    @contextmanager
    def activate(name: str) -> Iterator[None]:
        with use_backend(ready[name][0].backend):
            yield

    timings = time_interleaved(calls, activate, conditions.clock, conditions.seconds)
    return {name: timing._asdict() for name, timing in timings.items()}


def failed(error: Exception) -> Record:
    """The check of a contender that raised."""
    return {"ok": False, "worst": None, "what": f"{type(error).__name__}: {str(error).strip()[:500]}"}
