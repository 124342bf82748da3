"""Old and new side by side on copies, judged by the tolerance rule.

Two comparisons are made. In float64 nothing but a difference of meaning is left: a bound of 1e-12 or so finds an
epsilon at another place. In the model's own dtype the kernels run that training will run on, on the inputs of some of
the draws that tell what the model itself errs. There the input of a ReLU may be so near to zero that rounding decides,
and gradients jump. Where inputs are so, the model jumps as well, which the allowance then holds. A right result may
jump alone, but not each time, whereas a wrong one is wrong each time: the smallest of its errors is judged.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from seqca.ops.shared.dispatch import forced_backend, use_backend
from seqca.ops.verification.draws import (
    Allowance,
    Draw,
    Results,
    allowances,
    as_drawn,
    exact_results,
    moved,
    plain_torch,
    verdict,
)
from seqca.ops.verification.tolerance import Errors, Verdict, errors, read

from .finding import Part
from .observation import Normalised, fewest_normalised
from .report import Error
from .trees import named_tensors
from .trial import StepError, Subject, Trial

DRAWS = 12
"""Of the unchanged model's error, as for the network's benchmark: each may take seconds."""

JUDGED = 3
"""Of them, on whose inputs replacements are judged."""

ROOM_IN_FLOAT64 = 1024
"""By which the rule is widened there: torch adds up float64 one by one, where it adds up float32 in float64, and so the
sum of a million numbers errs by a thousand roundings."""

_NORMS = partial(errors, channel_axis=1)
_NO_ERRORS = Errors(0.0, 0.0)

ENOUGH_VALUES = 6
"""Of a channel, for batch norm. Its gradient is divided by σ, and computed from what was divided by σ, so that rounding
is multiplied by 1/σ². Over channels of n normal values the mean square of that is finite from n = 6 on. Of two values
nothing is left but which one is larger, and the gradient is all rounding."""

_ONE_IMAGE = (
    "Where gradients alone are other numbers, torch may be the one that is wrong, in the gradient of batch norm for "
    "one image on a CPU: take two."
)


class Outcome(NamedTuple):
    """What came of a comparison."""

    failure: str | None
    """Why the parts cannot stay, or None."""
    found: Sequence[Error] = ()
    """Of all results."""
    doubts: Sequence[str] = ()
    """What speaks against the sample where parts gave other numbers, in sentences."""

    @property
    def largest(self) -> Error:
        """Of all errors."""
        return max(self.found)

    def largest_of(self, path: str) -> Error | None:
        """Of the errors of a part's own gradients and buffers; None if it has none."""
        own = [each for each in self.found if each.what.startswith((f"gradient of {path}.", f"{path}."))]
        return max(own, default=None)


class _IncomparableError(Exception):
    """Why a replacement has no results to compare."""


class _Judged(NamedTuple):
    """A draw of the unchanged model."""

    inputs: list[Tensor]
    exact: Results
    unchanged: dict[str, Errors]
    """What it errs."""


class Comparison:
    """Judges replacements of parts of a model, which itself is not changed.

    Args:
        subject: the model as it is, and a training step.

    Raises:
        TypeError: the step returns something else than losses with a total.
        ValueError: no yardstick: the step raises, in float64 or at all, results are not finite, none has a gradient, or
            random numbers are drawn.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._old = Trial(subject)
        self._inputs = self._old.inputs()
        self._drawn = as_drawn(self._inputs)
        self._judged: list[_Judged] = []
        try:
            self._exact = self._checked_exact()
            self._allowed = self._drawn_allowances()
        except StepError as error:
            raise ValueError(self._where_it_raises(error)) from error
        self._is_wide = all(x.dtype == torch.float64 for x in self._inputs)
        self._in_float64 = _given_in_float64(self._exact)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that are compared in, in words."""
        dtypes = {x.dtype for x in self._inputs} | ({torch.float64} if self._in_float64 else set())
        return tuple(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))

    @property
    def not_in_float64(self) -> tuple[str, ...]:
        """The results that come in another dtype where the others are compared in float64."""
        return tuple(what for what in self._exact if self._in_float64 and what not in self._in_float64)

    def outcome(self, parts: Sequence[Part]) -> Outcome:
        """What comes of replacing parts together."""
        trial = Trial(self._subject, parts)
        try:
            verdicts = self._in_wide(trial) if self._in_float64 or self._is_wide else []
            if all(each.ok for each in verdicts) and not self._is_wide:
                verdicts += self._on_draws(trial)
        except _IncomparableError as error:
            return Outcome(str(error))
        wrong = [each for each in verdicts if not each.ok]
        failure, doubts = (f"gives other numbers: {wrong[0]}", self._doubts(wrong)) if wrong else (None, ())
        return Outcome(failure, [_error(each) for each in verdicts], doubts)

    def _doubts(self, wrong: Sequence[Verdict]) -> tuple[str, ...]:
        """What speaks against the sample, where parts gave other numbers."""
        fewest, doubts = self._fewest, []
        if fewest is None:
            return ()
        images = named_tensors("images", self._subject.sample[0]).values()
        of_gradients = all(each.what.startswith("gradient of ") for each in wrong)
        if of_gradients and any(x.device.type == "cpu" and x.shape[:1] == (1,) for x in images):
            doubts.append(_ONE_IMAGE)
        if fewest.values < ENOUGH_VALUES:
            doubts.append(
                f"The sample may be too small: {fewest.path} normalises {fewest.values} values of a channel, and "
                f"below {ENOUGH_VALUES} gradients may jump by rounding: take more images, or larger ones."
            )
        return tuple(doubts)

    @cached_property
    def _fewest(self) -> Normalised | None:
        return fewest_normalised(self._old, self._drawn)

    def _in_wide(self, trial: Trial) -> list[Verdict]:
        forced = forced_backend()
        with use_backend(forced if forced == "reference" else "auto"):
            dtypes = {what: x.dtype for what, x in self._exact.items()}
            results = self._results(trial, [x.double() for x in self._drawn], dtypes)
        # What comes in another dtype is judged on draws, unless the model itself is in float64: then there are none.
        judged = results.keys() if self._is_wide else self._in_float64
        return [self._judged_in_wide(what, x) for what, x in results.items() if what in judged]

    def _judged_in_wide(self, what: str, x: Tensor) -> Verdict:
        allowed = self._allowed[what]
        if what not in self._in_float64:
            return verdict(what, x.to(allowed.dtype), self._exact[what], allowed, _NORMS)
        judged = verdict(what, x, self._exact[what], allowed, _NORMS)
        bound = type(judged.bound)(*(ROOM_IN_FLOAT64 * each for each in judged.bound))
        return judged._replace(what=f"{what}, in float64", bound=bound)

    def _on_draws(self, trial: Trial) -> list[Verdict]:
        dtypes = {what: allowed.dtype for what, allowed in self._allowed.items()}
        found = [_norms(self._results(trial, draw.inputs, dtypes), draw.exact) for draw in self._judged]
        return [self._judged_on_draws(what, [each[what] for each in found]) for what in self._exact]

    def _judged_on_draws(self, what: str, found: Sequence[Errors]) -> Verdict:
        if all(errors == draw.unchanged[what] for errors, draw in zip(found, self._judged, strict=True)):
            return Verdict(what, _NO_ERRORS, _NO_ERRORS)  # no part that was replaced has to do with it
        allowed = self._allowed[what]
        bound = Errors(*(allowed.multiple * typical for typical in allowed.typical))
        return Verdict(what, Errors(*map(_smallest, zip(*found, strict=True))), bound)

    def _results(self, trial: Trial, inputs: Sequence[Tensor], dtypes: Mapping[str, torch.dtype]) -> Results:
        try:
            with plain_torch():
                results = trial(inputs)
        except (StepError, TypeError, ValueError) as error:  # a replacement that raises on this model is not for it
            raise _IncomparableError(f"raised {error}") from error
        if differing := results.keys() ^ self._exact.keys():
            raise _IncomparableError(f"gives other results: {min(differing)} is among those of one alone")
        for what, x in results.items():
            if x.shape != self._exact[what].shape:
                got, expected = tuple(x.shape), tuple(self._exact[what].shape)
                raise _IncomparableError(f"gives {what} the shape {got} instead of {expected}")
            if x.dtype != (dtype := dtypes[what]):
                raise _IncomparableError(f"gives {what} the dtype {x.dtype} instead of {dtype}")
        return results

    def _drawn_allowances(self) -> dict[str, Allowance]:
        generator = Generator().manual_seed(0)

        def draw() -> Draw:
            near = [moved(x, generator) for x in self._drawn]
            exact = exact_results(self._old, near)
            with plain_torch():
                rough = self._old(near)
            if len(self._judged) < JUDGED:
                self._judged.append(_Judged(near, exact, _norms(rough, exact)))
            return Draw(rough, exact)

        return allowances(draw, _NORMS, DRAWS)

    def _checked_exact(self) -> Results:
        exact = exact_results(self._old, self._drawn)
        for what, x in exact.items():
            if not x.isfinite().all():
                cause = "; labels that are all ignored have no mean loss" if what.startswith("loss") else ""
                raise ValueError(f"sample: got {what} that is not finite, expected numbers to compare{cause}")
        return exact

    def _where_it_raises(self, error: StepError) -> str:
        try:
            with plain_torch():
                self._old(self._inputs)
        except StepError as own:
            return f"sample: got {own} from a training step, expected what step(model, criterion, *sample) can take"
        return (
            f"sample: got {error} from the model in float64, expected a step that can be made in it: it is what "
            "numbers are judged by"
        )


def _given_in_float64(results: Results) -> set[str]:
    """Which results of a step in float64 are exact enough to be judged in it.

    A loss may come in another dtype, and the others be exact. But where no output is in float64 the model computes in
    another dtype, and its gradients are rounded to that one, whatever their own is.
    """
    given = {what for what, x in results.items() if x.dtype == torch.float64}
    outputs = {what for what in results if what.startswith("output")}
    return given if given & outputs or not outputs else set()


def _norms(results: Results, exact: Results) -> dict[str, Errors]:
    norms = read([_NORMS(x, exact[what]) for what, x in results.items()])
    return dict(zip(results, norms, strict=True))


def _smallest(found: Sequence[float]) -> float:
    return min(x if x == x else float("inf") for x in found)  # NaN is no number to be smaller than


def _error(verdict: Verdict) -> Error:
    return Error(max(map(_share, verdict.found, verdict.bound)), verdict.what)


def _share(error: float, allowed: float) -> float:
    if error <= allowed:
        return error / allowed if allowed else 0.0
    return error / allowed if allowed and error == error else float("inf")
