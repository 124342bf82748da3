"""The gain of multi-task over single-task learning."""

import math
from collections.abc import Mapping

from seqca.tasks import Score, primary_scores


def delta_m(
    scores: Mapping[str, float],
    single_task_scores: Mapping[str, float],
    primary: Mapping[str, Score] | None = None,
) -> float:
    """Δm: mean over the tasks of the signed relative difference of the primary scores, in percent.

    Differences count positive where the multi-task result is the better one, whichever direction better is
    (Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019).

    Args:
        scores: {"task/score": value}, as `MultiTaskMetric.compute` returns them.
        single_task_scores: the same from networks for one task each; may hold further entries.
        primary: {task: how it is scored on this data set}, where it is not the task's own way.

    Raises:
        ValueError: no task, a primary score that is missing or not finite on either side, a baseline of 0.
    """
    tasks = list(dict.fromkeys(key.partition("/")[0] for key in scores))
    if not tasks:
        raise ValueError("scores: got nothing, expected {'task/score': value}")
    total = 0.0
    for name, score in primary_scores(tasks, primary).items():
        key = f"{name}/{score.name}"
        value = _finite("scores", scores, key)
        baseline = _finite("single_task_scores", single_task_scores, key)
        if baseline == 0:
            raise ValueError(
                f"single_task_scores[{key!r}]: got 0, expected a score that differences can be relative to"
            )
        total += (1 if score.higher_is_better else -1) * (value - baseline) / baseline
    return 100 * total / len(tasks)


def _finite(argument: str, scores: Mapping[str, float], key: str) -> float:
    if key not in scores:
        raise ValueError(f"{argument}: got {', '.join(scores) or 'nothing'}, expected {key!r} as well")
    value = float(scores[key])
    if not math.isfinite(value):
        raise ValueError(f"{argument}[{key!r}]: got {value}, expected a finite number")
    return value
