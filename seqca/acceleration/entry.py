"""`accelerate`: finding, comparing and replacing put together."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from tqdm import tqdm

from .comparison import Comparison, Outcome
from .finding import Choice, Left, Part, find
from .observation import WHOLE, observe
from .replaced import replace_class
from .report import Kept, Replaced, Report
from .trial import Step, Subject, Trial, default_step


def accelerate(
    model: nn.Module,
    criterion: Any = None,
    *,
    sample: Sequence[Any] | None = None,
    step: Step = default_step,
    only: str | Iterable[str] = (),
    skip: str | Iterable[str] = (),
    outputs: Literal["full", "lazy"] = "full",
) -> Report:
    """Replaces the parts of a model that fused operators can compute, in place, with the same numbers.

    A module is recognised by the name of its class and by what its methods do. It stays the same object, with the same
    parameters, buffers, hooks and keys, and gets another `forward`: its class becomes a subclass of what it was.

    With a sample, old and new make a training step side by side on copies: outputs, losses, every gradient and the
    running statistics are judged by the tolerance rule, and then outputs and losses in evaluation mode. A part that
    gives other numbers, or raises, is taken back. This takes some 30 training steps, half of them in float64, and four
    for each part: let the sample be small.

    Args:
        model: to change. One that is wrapped for data parallelism is changed inside.
        criterion: of its losses; changed like the model, if it is a module.
        sample: images and targets, or what else a training step takes, the images first.
        step: (model, criterion, *sample) → (output, losses). By default `output = model(images)` and
            `losses = criterion(output, targets)`, with whatever the sample has behind them. Losses are a scalar, or
            have a "total" that is one, or begin with one.
        only: paths (such as "model.heads", "criterion") and kinds ("mti_net", "mti_net.head") that alone are replaced.
        skip: those that are not.
        outputs: "full": what the model returns is what it was. "lazy": full-size predictions are made only when they
            are read, so that losses can do without them; not under `nn.DataParallel`.

    Returns:
        What was replaced and what was left, to print; `restore()` undoes it.

    Raises:
        TypeError: an argument of another type, or losses without a total.
        ValueError: nothing can be replaced (the message has the reasons), a name that means nothing, or a sample on
            which numbers cannot be compared.
    """
    root, function = _root(model, criterion, outputs)
    choice = Choice(_names("only", only), _names("skip", skip), outputs == "lazy")
    choice.check(root)
    parts, left = find(root, choice, {})
    _expect_some(parts, left)
    if sample is None:
        seen = [Replaced(part.path, part.class_name, part.replacement.kind) for part in parts]
        return _applied(root, parts, Report(seen, left))
    if not isinstance(sample, (tuple, list)) or not sample:
        raise TypeError(f"sample: got {type(sample).__name__}, expected the arguments of a training step, images first")
    with tqdm(desc="comparing", unit=" steps", disable=None, leave=False) as bar:

        def counted(*arguments: Any) -> tuple[Any, Any]:
            bar.update()
            return step(*arguments)

        subject = Subject(root, function, counted, sample)
        comparison = Comparison(subject)
        parts, left, outcomes = _that_hold(comparison, root, choice)
        _expect_some(parts, left)
        report = _seen(subject, parts, left, outcomes, comparison.dtypes)
    return _applied(root, parts, report)


def _that_hold(
    comparison: Comparison, root: nn.ModuleDict, choice: Choice
) -> tuple[list[Part], list[Left], dict[str, Outcome]]:
    """What can be replaced and gives the same numbers, alone and together, and what is left.

    Where a part fails, its children are found in its place and compared in the next round. A part that reads lazy maps
    is tried with those that make them, and so after them.
    """
    outcomes: dict[str, Outcome] = {}
    while True:
        failures = {path: outcome.failure for path, outcome in outcomes.items() if outcome.failure is not None}
        parts, left = find(root, choice, failures)
        fresh = [part for part in parts if part.path not in outcomes]
        sources = [part for part in parts if part.replacement.hands_lazy]
        first = [part for part in fresh if not _reads_lazy(part)] or fresh
        variants = [[*sources, part] if _reads_lazy(part) else [part] for part in first]
        complete = len(first) == len(fresh)
        tried = comparison.outcomes([*variants, parts] if complete and len(parts) > 1 else variants)
        outcomes |= {part.path: outcome for part, outcome in zip(first, tried, strict=False)}
        if not complete or any(outcomes[part.path].failure is not None for part in parts):
            continue
        failure = tried[-1].failure if tried else None
        if failure is None:
            return parts, left, outcomes
        outcomes |= {part.path: Outcome(f"right alone, wrong with the others: {failure}") for part in parts}


def _reads_lazy(part: Part) -> bool:
    return part.replacement.lazy and not part.replacement.hands_lazy


def _seen(
    subject: Subject,
    parts: Sequence[Part],
    left: Sequence[Left],
    outcomes: dict[str, Outcome],
    compared_in: tuple[str, ...],
) -> Report:
    paths = [part.path for part in parts]
    before, after = observe(Trial(subject), paths), observe(Trial(subject, parts), paths)
    kept = {path: Kept(before[path].kept, after[path].kept) for path in (WHOLE, *paths)}
    replaced = [
        Replaced(
            part.path,
            part.class_name,
            part.replacement.kind,
            after[part.path].operators,
            outcomes[part.path].share,
            outcomes[part.path].worst,
            kept[part.path],
        )
        for part in parts
    ]
    return Report(replaced, left, kept[WHOLE], compared_in)


def _applied(root: nn.ModuleDict, parts: Sequence[Part], report: Report) -> Report:
    for part in parts:
        module = root.get_submodule(part.path)
        replace_class(module, part.fused)
        report.modules.append(module)
    return report


def _root(model: nn.Module, criterion: Any, outputs: str) -> tuple[nn.ModuleDict, Any]:
    """What holds both, unwrapped, and the criterion where that is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a module")
    if outputs not in ("full", "lazy"):
        raise ValueError(f"outputs: got {outputs!r}, expected 'full' or 'lazy'")
    if outputs == "lazy" and isinstance(model, DataParallel):
        raise ValueError("outputs: got 'lazy' for a model in nn.DataParallel, expected 'full': it gathers tensors")
    while isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module
    if isinstance(criterion, nn.Module):
        return nn.ModuleDict({"model": model, "criterion": criterion}), None
    if criterion is not None and not callable(criterion):
        raise TypeError(f"criterion: got {type(criterion).__name__}, expected a module or a function")
    return nn.ModuleDict({"model": model}), criterion


def _names(argument: str, names: str | Iterable[str]) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"{argument}: got {wrong[0]!r}, expected paths and kinds, which are strings")
    return names


def _expect_some(parts: Sequence[Part], left: Sequence[Left]) -> None:
    if not parts:
        reasons = "".join(f"\n  {each.path} ({each.class_name}): {each.reason}" for each in left)
        raise ValueError(f"model: got none of the parts that can be replaced, expected at least one{reasons}")
