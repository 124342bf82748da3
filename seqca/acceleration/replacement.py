"""What a kind of module is replaced by, and how it is recognised."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn


def nothing_refused(_: nn.Module) -> None:
    """The refusal of a replacement that has none."""


@dataclass(frozen=True)
class Replacement:
    """A fused `forward` for modules of one kind, in whatever package they are."""

    kind: str
    """What `only`, `skip` and the report call it: ``"<code base>.<part>"``."""
    class_name: str
    """Of the modules."""
    fingerprints: tuple[str, ...]
    """Of the methods of their class, see `fingerprint`; one for each version that is known."""
    fused: type[nn.Module] | None
    """A class with `forward` alone, at the top of its module. Its `self` is the module that is replaced: parameters are
    read through it at every call, nothing is kept on it, and `super().forward` is what the module did before. None for
    modules that are known and never replaced: the refusal says why."""
    refusal: Callable[[nn.Module], str | None] = nothing_refused
    """Why a module of this class is left after all, such as for a setting that its source does not show; or None."""
    methods: tuple[str, ...] = ("forward",)
    """Those whose source is recognised: `forward` and what it calls of its own."""
    calls: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    """The children that the fused `forward` calls as modules, so that their hooks run: patterns of paths below the
    module, ``"*"`` for all, or a function that gives those of a module. What lies below one of them is called too."""
    lazy: bool = False
    """Whether it makes final predictions lazy, or has no use unless it is handed lazy maps: it is taken with
    ``outputs="lazy"``, and below a part that hands them on."""
    hands_lazy: bool = False
    """Whether it hands lazy maps to its children, or to what is called after it."""
    torch_functions: tuple[str, ...] = ()
    """Names of functions of torch that the fused `forward` computes with where the module did not, for the report,
    which sees the operators of this package by itself."""

    def called(self, module: nn.Module) -> Callable[[str], bool]:
        """Whether the fused `forward` calls a child of a module, by its path below the module."""
        patterns = self.calls(module) if callable(self.calls) else self.calls

        def is_called(path: str) -> bool:
            names = path.split(".")
            above = (".".join(names[: n + 1]) for n in range(len(names)))
            return any(fnmatchcase(each, pattern) for each in above for pattern in patterns)

        return is_called


REPLACEMENTS: list[Replacement] = []
"""All that are known; of several that fit a module the last one that nothing speaks against is taken."""


def register(replacement: Replacement) -> Replacement:
    """Adds a replacement to those that `accelerate` knows.

    Raises:
        ValueError: no fingerprints, or a fused class that pickling could not find again.
    """
    fused = replacement.fused
    if not replacement.fingerprints:
        raise ValueError(f"fingerprints: got none for {replacement.kind!r}, expected at least one")
    if fused is not None and "<locals>" in fused.__qualname__:
        raise ValueError(f"fused: got {fused.__qualname__}, expected a class at the top of a module, for pickling")
    REPLACEMENTS.append(replacement)
    return replacement


def leave(kind: str, class_name: str, fingerprints: tuple[str, ...], reason: str) -> Replacement:
    """Makes a kind of module known that is never replaced, so that a report names it with the reason."""
    return register(Replacement(kind, class_name, fingerprints, None, lambda _: reason))
