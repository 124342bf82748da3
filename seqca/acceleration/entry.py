"""`accelerate`: finding, comparing and replacing put together."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from tqdm import tqdm

from .comparison import Comparison, Outcome
from .finding import Choice, Left, Part, find, grouped
from .observation import WHOLE, observe
from .replaced import replace_class
from .report import Kept, Replaced, Report
from .trial import Step, StepError, Subject, Trial, default_step


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
    gives other numbers, or raises, is taken back. This takes 25 training steps, half of them in float64, four for each
    kind of part and, if there are several, four for all together: let the sample be small.

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
        TypeError: an argument of another type, losses without a total, or a step that returns something else.
        ValueError: nothing can be replaced (the message has the reasons), a name that means nothing, a criterion in the
            model's place, or a sample on which the step raises, or numbers cannot be compared.
    """
    root, function = _root(model, criterion, outputs)
    if not callable(step):
        raise TypeError(f"step: got {type(step).__name__}, expected a function of model, criterion and sample")
    choice = Choice(_names("only", only), _names("skip", skip), outputs == "lazy")
    choice.check(root)
    parts, left = find(root, choice, {})
    _expect_some(parts, left, ())
    if sample is None:
        seen = [Replaced(part.path, part.class_name, part.replacement.kind) for part in parts]
        return _applied(root, parts, Report(seen, left))
    if not isinstance(sample, (tuple, list)) or not sample:
        got = f"an empty {type(sample).__name__}" if isinstance(sample, (tuple, list)) else type(sample).__name__
        raise TypeError(f"sample: got {got}, expected a tuple of the arguments of a training step, images first")
    with tqdm(desc="comparing", unit=" steps", disable=None, leave=False) as bar:

        def counted(*arguments: Any) -> tuple[Any, Any]:
            bar.update()
            return step(*arguments)

        subject = Subject(root, function, counted, sample)
        comparison = Comparison(subject)
        held = _that_hold(comparison, root, choice)
        _expect_some(held.parts, held.left, held.doubts)
        report = _seen(subject, held, comparison)
    return _applied(root, held.parts, report)


class _Held(NamedTuple):
    """What stood the comparison."""

    parts: list[Part]
    left: list[Left]
    outcomes: dict[tuple[str, str], Outcome]
    """Of each part with those that it was tried with, by its key."""
    together: Outcome | None
    """Of all parts; None if there are none."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against the sample where parts were taken back, each sentence once."""
        return tuple(dict.fromkeys(doubt for outcome in self.outcomes.values() for doubt in outcome.doubts))


def _that_hold(comparison: Comparison, root: nn.ModuleDict, choice: Choice) -> _Held:
    """What can be replaced and gives the same numbers, alone and together, and what is left.

    All parts of a kind are tried at once, and one by one if they show a difference. Where a part fails, another
    replacement of it, or its children, are found in its place and compared in the next round. A part that reads lazy
    maps is tried with those that make them, and so after them.
    """
    outcomes: dict[tuple[str, str], Outcome] = {}
    one_by_one: set[str] = set()
    while True:
        failures = {key: outcome.failure for key, outcome in outcomes.items() if outcome.failure is not None}
        parts, left = find(root, choice, failures)
        fresh = [part for part in parts if part.key not in outcomes]
        sources = [part for part in parts if part.replacement.hands_lazy]
        first = [part for part in fresh if not _reads_lazy(part)] or fresh
        groups = _groups(first, one_by_one)
        variants = [[*sources, *group] if _reads_lazy(group[0]) else group for group in groups]
        complete = len(first) == len(fresh)
        together = [parts] if complete and parts and variants != [parts] else []
        tried = [comparison.outcome(each) for each in (*variants, *together)]
        for group, outcome in zip(groups, tried, strict=False):
            if outcome.failure is not None and len(group) > 1:
                one_by_one.add(group[0].replacement.kind)
            else:
                outcomes |= {part.key: outcome for part in group}
        if not complete or any(part.key not in outcomes or outcomes[part.key].failure for part in parts):
            continue
        of_all = tried[-1] if tried else None
        if of_all is None or of_all.failure is None:
            return _Held(parts, left, outcomes, of_all)
        failure = f"right alone, wrong with the others: {of_all.failure}"
        outcomes |= {part.key: Outcome(failure, doubts=of_all.doubts) for part in parts}


def _groups(parts: Sequence[Part], one_by_one: Collection[str]) -> list[list[Part]]:
    """What is tried at once: all parts of a kind, unless its parts are to be tried one by one."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        kind = part.replacement.kind
        groups.setdefault(part.path if kind in one_by_one else kind, []).append(part)
    return list(groups.values())


def _reads_lazy(part: Part) -> bool:
    return part.replacement.lazy and not part.replacement.hands_lazy


def _seen(subject: Subject, held: _Held, comparison: Comparison) -> Report:
    parts = held.parts
    paths = [part.path for part in parts]
    try:  # the comparisons have given the sample dtypes of their own
        before = observe(Trial(subject), paths)
    except StepError as error:
        raise ValueError(f"sample: got {error} from a training step on it, expected what the model takes") from error
    after = observe(Trial(subject, parts), paths)
    kept = {path: Kept(before[path].kept, after[path].kept) for path in (WHOLE, *paths)}
    replaced = [
        Replaced(
            part.path,
            part.class_name,
            part.replacement.kind,
            (*(f"{name} (torch)" for name in part.replacement.torch_functions), *after[part.path].operators),
            held.outcomes[part.key].largest_of(part.path),
            held.outcomes[part.key].largest,
            kept[part.path],
        )
        for part in parts
    ]
    largest = None if held.together is None else held.together.largest
    dtypes, others = comparison.dtypes, comparison.not_in_float64
    return Report(replaced, held.left, kept[WHOLE], dtypes, others, largest, held.doubts)


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
        if not _has_parameters(model) and _has_parameters(criterion):
            name = type(model).__name__
            raise ValueError(f"model: got {name}, which has no parameters, and a criterion that has, expected it first")
        return nn.ModuleDict({"model": model, "criterion": criterion}), None
    if criterion is not None and not callable(criterion):
        raise TypeError(f"criterion: got {type(criterion).__name__}, expected a module or a function")
    return nn.ModuleDict({"model": model}), criterion


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _names(argument: str, names: str | Iterable[str]) -> tuple[str, ...]:
    is_one = isinstance(names, (str, nn.Module)) or not isinstance(names, Iterable)  # some modules can be iterated over
    several: tuple[Any, ...] = (names,) if is_one else tuple(names)
    if wrong := [name for name in several if not isinstance(name, str)]:
        got = f"a module, {type(wrong[0]).__name__}" if isinstance(wrong[0], nn.Module) else repr(wrong[0])
        raise TypeError(f"{argument}: got {got}, expected paths and kinds, which are strings")
    return several


def _expect_some(parts: Sequence[Part], left: Sequence[Left], doubts: Sequence[str]) -> None:
    if not parts:
        reasons = "".join(f"\n  {each.path} ({each.class_name}): {each.reason}" for each in grouped(left))
        none = "; no class in it has the name of one that is known (docs/acceleration.md)"
        told = "\n".join(["at least one" + (reasons or none), *doubts])
        raise ValueError(f"model: got none of the parts that can be replaced, expected {told}")
