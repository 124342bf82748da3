"""Old and new side by side on copies, judged by the tolerance rule.

Two comparisons are made. In float64 nothing but a difference of meaning is left: a bound of 1e-12 or so finds an
epsilon at another place. In the model's own dtype the kernels run that training will run on. There a right result may
have the input of a ReLU on the other side of zero, which a gradient shows with a jump that no draw need have seen. It
has not each time, whereas a wrong one is wrong each time: judged is the smallest error on three draws of the inputs.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from seqca.ops.shared.dispatch import forced_backend, use_backend
from seqca.ops.verification.draws import (
    Results,
    allowances,
    as_drawn,
    drawn_from,
    exact_results,
    moved,
    plain_torch,
    verdict,
)
from seqca.ops.verification.tolerance import Errors, Verdict, errors, read

from .finding import Part
from .trees import named_tensors
from .trial import Subject, Trial

DRAWS = 12
"""Of the unchanged model's error, as for the network's benchmark: each may take seconds."""

ROOM_IN_FLOAT64 = 1024
"""By which the rule is widened there: torch adds up float64 one by one, where it adds up float32 in float64, and so the
sum of a million numbers errs by a thousand roundings."""

_NORMS = partial(errors, channel_axis=1)
_NO_ERRORS = Errors(0.0, 0.0)

_ONE_IMAGE = "; torch may be the one that is wrong, in the gradient of batch norm for one image on a CPU: take two"


class Outcome(NamedTuple):
    """What came of a comparison."""

    failure: str | None
    """Why the parts cannot stay, or None."""
    share: float = 0.0
    """The largest error of a result that the parts have to do with, as a fraction of what is allowed."""
    worst: str = ""
    """Whose that is."""


class Comparison:
    """Judges replacements of parts of a model, which itself is not changed.

    Args:
        subject: the model as it is, and a training step.

    Raises:
        ValueError: no yardstick: results are not finite, random numbers are drawn, or float64 is refused.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._old = Trial(subject)
        self._inputs = self._old.inputs()
        images = named_tensors("images", subject.sample[0]).values()
        self._advice = _ONE_IMAGE if any(x.device.type == "cpu" and x.shape[:1] == (1,) for x in images) else ""
        self._drawn = as_drawn(self._inputs)
        self._exact = self._checked_exact()
        self._in_float64 = all(x.dtype == torch.float64 for x in self._exact.values())
        self._allowed = allowances(drawn_from(self._old, self._drawn), _NORMS, DRAWS)
        self._unchanged: list[dict[str, Errors]] = []

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that are compared in, in words. float64 is none of them where some result is in another dtype."""
        dtypes = {x.dtype for x in self._inputs} | ({torch.float64} if self._in_float64 else set())
        return tuple(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))

    def outcomes(self, variants: Sequence[Sequence[Part]]) -> list[Outcome]:
        """For each set of parts, what comes of replacing them together."""
        if not variants:
            return []
        trials = [Trial(self._subject, parts) for parts in variants]
        failures: list[str | None] = [None] * len(trials)
        verdicts: list[list[Verdict]] = [[] for _ in trials]
        if self._in_float64:
            wide = [x.double() for x in self._drawn]
            forced = forced_backend()
            for i, trial in enumerate(trials):
                with use_backend(forced if forced == "reference" else "auto"):
                    results, failures[i] = self._run(trial, wide)
                verdicts[i] += [self._judged_in_float64(what, x) for what, x in results.items()]
        if any(x.dtype != torch.float64 for x in self._inputs):
            self._judge_draws(trials, failures, verdicts)
        return [_outcome(failure, each, self._advice) for failure, each in zip(failures, verdicts, strict=True)]

    def _judged_in_float64(self, what: str, x: Tensor) -> Verdict:
        judged = verdict(what, x, self._exact[what], self._allowed[what], _NORMS)
        bound = type(judged.bound)(*(ROOM_IN_FLOAT64 * allowed for allowed in judged.bound))
        return judged._replace(what=f"{what}, in float64", bound=bound)

    def _judge_draws(
        self, trials: Sequence[Trial], failures: list[str | None], verdicts: Sequence[list[Verdict]]
    ) -> None:
        found: list[list[dict[str, Errors]]] = [[] for _ in trials]
        generator = Generator().manual_seed(1)
        for draw in range(3):
            near = [moved(x, generator) for x in self._drawn]
            exact = exact_results(self._old, near)
            if draw == len(self._unchanged):
                with plain_torch():
                    self._unchanged.append(_norms(self._old(near), exact))
            for i, trial in enumerate(trials):
                if failures[i] is None:
                    results, failures[i] = self._run(trial, near)
                    found[i].append(_norms(results, exact))
        for three, judged, failure in zip(found, verdicts, failures, strict=True):
            if failure is None:
                judged += [self._judged_on_three_draws(what, [each[what] for each in three]) for what in self._exact]

    def _judged_on_three_draws(self, what: str, three: Sequence[Errors]) -> Verdict:
        if all(errors == unchanged[what] for errors, unchanged in zip(three, self._unchanged, strict=True)):
            return Verdict(what, _NO_ERRORS, _NO_ERRORS)  # no part that was replaced has to do with it
        allowed = self._allowed[what]
        bound = Errors(*(allowed.multiple * typical for typical in allowed.typical))
        return Verdict(what, Errors(*map(_smallest, zip(*three, strict=True))), bound)

    def _run(self, trial: Trial, inputs: Sequence[Tensor]) -> tuple[Results, str | None]:
        """Results, or why there are none to compare."""
        try:
            with plain_torch():
                results = trial(inputs)
        except Exception as error:  # whatever a replacement raises on this model, it is not for it
            return {}, f"raised {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if differing := results.keys() ^ self._exact.keys():
            return {}, f"gives other results: {min(differing)} is among those of one alone"
        if shaped := [what for what, x in results.items() if x.shape != self._exact[what].shape]:
            got, expected = (tuple(x[shaped[0]].shape) for x in (results, self._exact))
            return {}, f"gives {shaped[0]} the shape {got} instead of {expected}"
        return results, None

    def _checked_exact(self) -> Results:
        try:
            exact = exact_results(self._old, self._drawn)
        except RuntimeError as error:
            message = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"sample: got {message!r} from the model in float64, expected a step that can be made in it: "
                "it is what numbers are judged by"
            ) from error
        for what, x in exact.items():
            if not x.isfinite().all():
                raise ValueError(f"sample: got {what} that is not finite, expected numbers to compare")
        return exact


def _norms(results: Results, exact: Results) -> dict[str, Errors]:
    norms = read([_NORMS(x, exact[what]) for what, x in results.items()])
    return dict(zip(results, norms, strict=True))


def _smallest(three: Sequence[float]) -> float:
    return min(x if x == x else float("inf") for x in three)  # NaN is no number to be smaller than


def _outcome(failure: str | None, verdicts: Sequence[Verdict], advice: str) -> Outcome:
    if failure is not None:
        return Outcome(failure)
    share, worst = max((max(map(_share, each.found, each.bound)), each.what) for each in verdicts)
    wrong = [each for each in verdicts if not each.ok]
    return Outcome(f"gives other numbers: {wrong[0]}{advice}" if wrong else None, share, worst)


def _share(error: float, allowed: float) -> float:
    if error <= allowed:
        return error / allowed if allowed else 0.0
    return error / allowed if allowed and error == error else float("inf")
