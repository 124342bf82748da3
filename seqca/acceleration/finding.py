"""Walks a model and its criterion, and tells what can be replaced and what is left, with the reason."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from torch import nn

from seqca.nn.conv_norm import has_hooks

from .fingerprint import fingerprint, matches
from .replaced import fused_class, is_replaced
from .replacement import REPLACEMENTS, Replacement


class Part(NamedTuple):
    """A module that can be replaced."""

    path: str
    """As one writes it: ``"model.heads.depth"``."""
    class_name: str
    replacement: Replacement

    @property
    def key(self) -> tuple[str, str]:
        """The path and the kind: there may be replacements of several kinds for a module."""
        return self.path, self.replacement.kind

    @property
    def fused(self) -> type[nn.Module]:
        """The class that has the new `forward`."""
        assert self.replacement.fused is not None  # or it would not have been found
        return self.replacement.fused


class Left(NamedTuple):
    """A module that was recognised by the name of its class, and left."""

    path: str
    class_name: str
    reason: str


_NOT_NAMED, _SKIPPED = "not named by `only`", "named by `skip`"
_NUMBERS = re.compile("(?<=gives other numbers: )[^;]*")


def grouped(left: Iterable[Left]) -> list[Left]:
    """One of each class and reason, whose path says how many more there are; what was not chosen comes last.

    Parts that give other numbers have one reason, whichever these are.
    """
    groups: dict[tuple[str, str], list[Left]] = {}
    for each in left:
        groups.setdefault((each.class_name, _NUMBERS.sub("", each.reason)), []).append(each)
    shown = [
        group[0]._replace(path=f"{group[0].path} and {len(group) - 1} more") if len(group) > 1 else group[0]
        for group in groups.values()
    ]
    return sorted(shown, key=lambda each: each.reason.startswith((_NOT_NAMED, _SKIPPED)))


class Choice(NamedTuple):
    """Which parts are wanted."""

    only: Sequence[str] = ()
    """Paths and kinds; all, if there are none. What lies below one of them is meant as well."""
    skip: Sequence[str] = ()
    lazy: bool = False

    def reason_against(self, path: str, module: nn.Module, replacement: Replacement) -> str | None:
        """Why a part is not wanted, or None."""
        kind = replacement.kind
        if _named(self.skip, path, kind):
            return _SKIPPED
        for name in self.skip:
            inner = name.removeprefix(f"{path}.")
            if inner != name and not replacement.called(module)(inner):
                return f"{inner} is named by `skip`, and the fused forward would go past it"
        if self.only and not _named(self.only, path, kind):
            return _NOT_NAMED if replacement.fused is None else f"{_NOT_NAMED}, its kind is {kind}"
        return None

    def check(self, root: nn.Module) -> None:
        """Refuses names that mean nothing.

        Raises:
            ValueError: names the argument.
        """
        known = {each.kind for each in REPLACEMENTS}
        paths = [path for path, _ in root.named_modules(remove_duplicate=False) if path]
        for argument, names in (("only", self.only), ("skip", self.skip)):
            for name in names:
                if not any(_covers(name, each) for each in (*known, *paths)):
                    kinds = sorted(
                        {each.kind for module in root.modules() for each in _known(module) if each.fused is not None}
                    )
                    expected = f"the path of a module, such as {paths[-1]!r}"
                    if kinds:
                        expected += f", or a kind that the model has, {', '.join(kinds)}"
                    if near := get_close_matches(name, (*kinds, *paths)):
                        expected = f"a path or a kind, perhaps {' or '.join(map(repr, near))}"
                    raise ValueError(f"{argument}: got {name!r}, expected {expected}")


def find(root: nn.Module, choice: Choice, taken_back: Mapping[tuple[str, str], str]) -> tuple[list[Part], list[Left]]:
    """What can be replaced below a module, the parents first, and what is left.

    Of several replacements that fit a module the last one that nothing speaks against is taken. Children that a fused
    forward does not call are parts of their parent and looked at only if that is left.

    Args:
        root: holds the model and the criterion; not looked at itself.
        choice: which parts are wanted.
        taken_back: reasons not to replace a part after all, by its `key`.
    """
    parts: list[Part] = []
    left: list[Left] = []
    seen: set[nn.Module] = set()

    def look(path: str, module: nn.Module, called: Callable[[str], bool], lazy: bool) -> None:
        if module in seen:
            return
        seen.add(module)
        if called(path):
            part = recognise(path, module, lazy)
            called = _every if part is None else _below(part, module)
            lazy |= part is not None and part.replacement.hands_lazy
        for name, child in module.named_children():
            look(f"{path}.{name}", child, called, lazy)

    def recognise(path: str, module: nn.Module, lazy: bool) -> Part | None:
        name = type(module).__name__
        if is_replaced(module):
            left.append(Left(path, name, "replaced already"))
            return next((Part(path, name, each) for each in REPLACEMENTS if each.fused is fused_class(module)), None)
        fitting = _fitting(module, lazy)
        if isinstance(fitting, str):
            left.append(Left(path, name, fitting))
            return None
        taken: Part | None = None
        against: dict[str, str] = {}
        for each in fitting:
            part = Part(path, name, each)
            reason = choice.reason_against(path, module, each)
            reason = reason or _reason_against(module, each) or taken_back.get(part.key)
            if reason is None:
                taken = part
                break
            against.setdefault(each.kind, reason)
        if taken is not None:
            parts.append(taken)
            told = [f"{kind} {reason}" for kind, reason in against.items() if (path, kind) in taken_back]
        else:
            reasons = [*([] if lazy else _without_lazy_maps(root, path, choice)), *against.values()]
            told = ["; ".join(dict.fromkeys(reasons))] if reasons else []
        left.extend(Left(path, name, reason) for reason in told)
        return taken

    for name, child in root.named_children():
        look(name, child, _every, choice.lazy)
    return parts, left


def _every(_: str) -> bool:
    """Whether a module is called, by its path, where no part is above it."""
    return True


def _below(part: Part, module: nn.Module) -> Callable[[str], bool]:
    """Whether a module is called, by its path, where a part is above it."""
    called = part.replacement.called(module)
    return lambda path: called(path.removeprefix(f"{part.path}."))


def _fitting(module: nn.Module, lazy: bool) -> list[Replacement] | str:
    """The replacements of a module, the last one first; why there are none, if its class has the name of one."""
    of_name = [each for each in reversed(REPLACEMENTS) if each.class_name == type(module).__name__]
    of_name = [each for each in of_name if lazy or not each.lazy]
    known = [each for each in _known(module) if lazy or not each.lazy]
    if known or not of_name or _names_many(type(module), of_name):
        return known
    return _unknown(type(module), of_name[0].methods)


def _known(module: nn.Module) -> list[Replacement]:
    """The replacements whose fingerprint a module has, the last one first."""
    return [
        each for each in reversed(REPLACEMENTS) if matches(module, each.class_name, each.fingerprints, each.methods)
    ]


def _without_lazy_maps(root: nn.Module, path: str, choice: Choice) -> Iterator[str]:
    """Why replacements of a module that need lazy maps are not tried, where they might have been expected.

    That is where `only` names them, or where a part above would hand on such maps, but is left itself.
    """
    module, names = root.get_submodule(path), path.split(".")
    above = [root.get_submodule(".".join(names[:n])) for n in range(1, len(names))]
    sources = dict.fromkeys(each.kind for parent in above for each in _known(parent) if each.hands_lazy)
    for each in _known(module):
        if each.lazy and (sources or _named(choice.only, path, each.kind)):
            reason = choice.reason_against(path, module, each) or _reason_against(module, each)
            needed = "" if each.hands_lazy else "".join(f"{kind}, which makes its maps lazy, or " for kind in sources)
            yield reason or f'{each.kind} needs {needed}outputs="lazy"'


def _names_many(cls: type[nn.Module], of_name: Sequence[Replacement]) -> bool:
    """Whether a class that does something else is no fork, and of no interest: it has a name that many classes have."""
    return cls.__module__.startswith(("torch.", "timm.")) or all(each.fused is None for each in of_name)


def _unknown(cls: type[nn.Module], methods: tuple[str, ...]) -> str:
    try:
        return f"does something else than the class that is known (fingerprint {fingerprint(cls, *methods)})"
    except (AttributeError, OSError, SyntaxError, TypeError) as error:
        return f"its source cannot be read: {error}"


def _reason_against(module: nn.Module, replacement: Replacement) -> str | None:
    if replacement.fused is None:
        return replacement.refusal(module)
    if "forward" in vars(module):
        return "has a forward of its own, set on the instance"
    for path, child in _passed_by(module, replacement):
        if has_hooks(child):
            return f"{path} has hooks, which the fused forward would not run"
        if "forward" in vars(child):
            return f"{path} has a forward of its own, set on the instance, which the fused one would not run"
    return replacement.refusal(module)


def _passed_by(module: nn.Module, replacement: Replacement) -> Iterator[tuple[str, nn.Module]]:
    called = replacement.called(module)
    for path, child in module.named_modules():
        if path and not called(path):
            yield path, child


def _named(names: Iterable[str], path: str, kind: str) -> bool:
    return any(_covers(name, path) or _covers(name, kind) for name in names)


def _covers(name: str, path: str) -> bool:
    return path == name or path.startswith(f"{name}.")
