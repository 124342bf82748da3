"""All cases of a set, and the choice among them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from .case import Case, Contender, Field
from .shapes import Plan

ROOMS = ("network", "linear_attention", "upsampled_loss", "softplus", "claim")
"""Modules with a `NAME` and `cases(plan)`, in the order in which they are measured."""


@dataclass(frozen=True)
class Choice:
    """What a run is narrowed to. Each entry is a part of a name; an empty tuple narrows nothing."""

    operators: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()

    def takes(self, case: Case) -> bool:
        """Whether a case is chosen."""
        return (
            _matches(self.operators, case.operator)
            and _matches(self.shapes, case.shape)
            and (not self.dtypes or case.dtype in self.dtypes)
            and (not self.directions or case.direction in self.directions)
        )

    def narrow(self, field: Field) -> Field:
        """The chosen contenders; the reference stays, since no figure stands without its rival."""

        def stays(contender: Contender) -> bool:
            return contender.name == "reference" or bool(contender.computes) or _matches(self.providers, contender.name)

        return Field([contender for contender in field.contenders if stays(contender)], field.absent)


def rooms() -> tuple[list[ModuleType], dict[str, str]]:
    """The rooms, and those that are left out since the measured seqca, an older one, lacks what they need."""
    present, left_out = [], {}
    for name in ROOMS:
        try:
            present.append(import_module(f".{name}", __package__))
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "seqca":
                raise
            left_out[name] = str(error)
    return present, left_out


def all_cases(plan: Plan, choice: Choice | None = None) -> Iterator[Case]:
    """The cases of a set that are chosen, in the order in which they are measured."""
    choice = choice or Choice()
    for room in rooms()[0]:
        for case in room.cases(plan):
            if choice.takes(case):
                yield case


def _matches(parts: Iterable[str], name: str) -> bool:
    parts = tuple(parts)
    return not parts or any(part in name for part in parts)
