"""What `accelerate` did to a model, and the way back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from .finding import Left, grouped
from .replaced import is_replaced, restore_class

_UNKNOWN = "not compared"


class Kept(NamedTuple):
    """Bytes kept for backward, each storage counted once, parameters and buffers left out."""

    before: int
    after: int

    def __str__(self) -> str:
        return f"{_size(self.before)} → {_size(self.after)}"


class Error(NamedTuple):
    """What a comparison found."""

    share: float
    """Of what is allowed."""
    what: str
    """The result that errs so."""

    def __str__(self) -> str:
        return f"{self.share:.2g} ({self.what})" if self.share else "0"


class Replaced(NamedTuple):
    """A part that fused operators compute. What only a sample shows is None without one."""

    path: str
    """As one writes it: ``"model.heads.depth"``."""
    class_name: str
    kind: str
    """Of the replacement."""
    operators: tuple[str, ...] | None = None
    """With the backend of each: ``"aggregation_head (aten)"``. Functions of torch that the replacement computes with
    are among them: ``"scaled_dot_product_attention (torch)"``."""
    own_error: Error | None = None
    """The largest one of the gradients and buffers of this part; None too if it has none. What it does to others is not
    in it: a wrong gradient by its input shows in the modules before it."""
    error: Error | None = None
    """The largest one of all results, this part being replaced with those that it was tried with: all of its kind,
    unless they were tried one by one, and what makes the lazy maps that it reads."""
    kept: Kept | None = None
    """While this part ran."""


@dataclass(frozen=True)
class Report:
    """What was replaced, what was left and why; `print` shows tables."""

    replaced: Sequence[Replaced]
    left: Sequence[Left]
    kept: Kept | None = None
    """In a training step; None without a sample."""
    compared_in: tuple[str, ...] = ()
    """The dtypes that old and new were compared in; none without a sample."""
    not_in_float64: tuple[str, ...] = ()
    """The results that were compared in the model's dtype alone, since they come in another one in float64 too."""
    error: Error | None = None
    """The largest one of all results, all parts being replaced; None without a sample."""
    doubts: Sequence[str] = ()
    """What speaks against the sample where parts gave other numbers, in sentences."""
    modules: list[nn.Module] = field(default_factory=list, repr=False)
    """The modules of `replaced`."""

    def restore(self) -> None:
        """Gives every module back the class that it had. What it has learnt since stays."""
        for module in self.modules:
            if is_replaced(module):
                restore_class(module)

    def __str__(self) -> str:
        header = ("replaced", "class", "kind", "operators", "kept for backward", "own error")
        blocks = [_table([header, *self._parts()])]
        if errors := self._errors():
            blocks.append(_table([("kind", "largest error of all results, of what is allowed"), *errors]))
        if heavier := self._heavier():
            blocks.append(_table([("keeps more than before: leave out by `skip`", "kept for backward"), *heavier]))
        if self.left:
            blocks.append(_table([("left", "class", "reason"), *grouped(self.left)]))
        blocks += self.doubts
        if self.kept is not None:
            share = f" ({self.kept.after / self.kept.before:.2f}×)" if self.kept.before else ""
            blocks.append(f"A training step keeps {self.kept}{share} for backward.")
        compared = f"compared in {' and in '.join(self.compared_in)}" if self.compared_in else "not compared: no sample"
        others = f" In float64 all but {', '.join(self.not_in_float64)}." if self.not_in_float64 else ""
        largest = f" The largest error of all parts together: {self.error}." if self.error is not None else ""
        blocks.append(f"Old and new were {compared}.{others}{largest}")
        return "\n\n".join(blocks)

    def _parts(self) -> Iterator[tuple[str, ...]]:
        for each in self.replaced:
            called = _UNKNOWN if each.operators is None else ", ".join(each.operators) or "none"
            own = "–" if each.own_error is None else f"{each.own_error.share:.2g}"
            error = _UNKNOWN if each.error is None else own
            yield each.path, each.class_name, each.kind, called, _spans([each]), error

    def _errors(self) -> list[tuple[str, ...]]:
        """The largest error with the parts of each kind, in words."""
        errors: dict[str, Error] = {}
        for each in self.replaced:
            if each.error is not None:
                errors[each.kind] = max(each.error, errors.get(each.kind, each.error))
        return [(kind, str(error)) for kind, error in errors.items()]

    def _heavier(self) -> list[tuple[str, ...]]:
        """What keeps more than before, as `skip` takes it: a kind if all its parts do, else paths."""
        kinds: dict[str, list[Replaced]] = {}
        for each in self.replaced:
            kinds.setdefault(each.kind, []).append(each)
        rows: list[tuple[str, ...]] = []
        for kind, parts in kinds.items():
            heavier = [each for each in parts if each.kept is not None and each.kept.after > each.kept.before]
            if len(heavier) == len(parts) > 1:
                rows.append((kind, _spans(parts)))
            else:
                rows += [(each.path, _spans([each])) for each in heavier]
        return rows


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def _spans(parts: Sequence[Replaced]) -> str:
    """The least and the most that parts keep, before and after."""
    kept = [each.kept for each in parts if each.kept is not None]
    return " → ".join(_span(sizes) for sizes in zip(*kept, strict=True)) or _UNKNOWN


def _span(sizes: Sequence[int]) -> str:
    least, most = _size(min(sizes)), _size(max(sizes))
    return least if least == most else f"{least} to {most}"


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"
