"""Walks a model and its criterion, and tells what can be replaced and what is left, with the reason."""

from collections.abc import Iterator, Mapping, Sequence
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
    def fused(self) -> type[nn.Module]:
        """The class that has the new `forward`."""
        assert self.replacement.fused is not None  # or it would not have been found
        return self.replacement.fused


class Left(NamedTuple):
    """A module that was recognised by the name of its class, and left."""

    path: str
    class_name: str
    reason: str


class Choice(NamedTuple):
    """Which parts are wanted."""

    only: Sequence[str] = ()
    """Paths and kinds; all, if there are none. What lies below one of them is meant as well."""
    skip: Sequence[str] = ()
    lazy: bool = False

    def reason_against(self, path: str, kind: str) -> str | None:
        """Why a part is not wanted, or None."""
        if any(_covers(name, path) or _covers(name, kind) for name in self.skip):
            return "named by `skip`"
        if self.only and not any(_covers(name, path) or _covers(name, kind) for name in self.only):
            return "not named by `only`"
        return None

    def check(self, root: nn.Module) -> None:
        """Refuses names that mean nothing.

        Raises:
            ValueError: names the argument.
        """
        kinds = sorted({each.kind for each in REPLACEMENTS})
        paths = [path for path, _ in root.named_modules(remove_duplicate=False)]
        for argument, names in (("only", self.only), ("skip", self.skip)):
            for name in names:
                if not any(_covers(name, each) for each in (*kinds, *paths)):
                    expected = f"the path of a module, such as {paths[-1]!r}, or a kind among {', '.join(kinds)}"
                    raise ValueError(f"{argument}: got {name!r}, expected {expected}")


def find(root: nn.Module, choice: Choice, taken_back: Mapping[str, str]) -> tuple[list[Part], list[Left]]:
    """What can be replaced below a module, the parents first, and what is left.

    Children that a fused forward does not call are parts of their parent and looked at only if that is left.

    Args:
        root: holds the model and the criterion; not looked at itself.
        choice: which parts are wanted.
        taken_back: reasons, by path, not to replace a part after all.
    """
    parts: list[Part] = []
    left: list[Left] = []
    seen: set[nn.Module] = set()

    def look(path: str, module: nn.Module, parent: Part | None, lazy: bool) -> None:
        if module in seen:
            return
        seen.add(module)
        if parent is None or parent.replacement.calls_child(path.removeprefix(f"{parent.path}.")):
            parent = recognise(path, module, lazy)
            lazy |= parent is not None and parent.replacement.hands_lazy
        for name, child in module.named_children():
            look(f"{path}.{name}", child, parent, lazy)

    def recognise(path: str, module: nn.Module, lazy: bool) -> Part | None:
        name = type(module).__name__
        if is_replaced(module):
            left.append(Left(path, name, "replaced already"))
            return next((Part(path, name, each) for each in REPLACEMENTS if each.fused is fused_class(module)), None)
        found = _recognised(module, lazy)
        if isinstance(found, Replacement):
            reason = taken_back.get(path) or choice.reason_against(path, found.kind)
            if reason is None:
                parts.append(Part(path, name, found))
                return parts[-1]
            found = reason
        if found is not None:
            left.append(Left(path, name, found))
        return None

    for name, child in root.named_children():
        look(name, child, None, choice.lazy)
    return parts, left


def _recognised(module: nn.Module, lazy: bool) -> Replacement | str | None:
    """The replacement of a module; why it has none, if its class has the name of one; None for any other."""
    of_name = [each for each in reversed(REPLACEMENTS) if each.class_name == type(module).__name__]
    of_name = [each for each in of_name if lazy or not each.lazy]
    if not of_name:
        return None
    known = [each for each in of_name if matches(module, each.class_name, each.fingerprints, each.methods)]
    if not known:
        return None if _names_many(type(module), of_name) else _unknown(type(module), of_name[0].methods)
    reasons = [_reason_against(module, each) for each in known]
    return known[reasons.index(None)] if None in reasons else reasons[0]


def _names_many(cls: type[nn.Module], of_name: Sequence[Replacement]) -> bool:
    """Whether a class that does something else is no fork, and of no interest: it has a name that many classes have."""
    return cls.__module__.startswith(("torch.", "timm.")) or all(each.fused is None for each in of_name)


def _unknown(cls: type[nn.Module], methods: tuple[str, ...]) -> str:
    try:
        return f"does something else than the class that is known (fingerprint {fingerprint(cls, *methods)})"
    except (AttributeError, OSError, SyntaxError, TypeError):
        return "its source cannot be read"


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
    for path, child in module.named_modules():
        if path and not replacement.calls_child(path):
            yield path, child


def _covers(name: str, path: str) -> bool:
    return path == name or path.startswith(f"{name}.")
