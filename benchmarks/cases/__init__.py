"""All cases of a set: one module for each registered operator, found by its name, and those of the whole network."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from seqca.ops.shared.operator import OPERATORS

from ..harness.case import Case, Selection
from .shapes import CaseSet

HELPERS = {"__init__", "labels", "network_cost", "shapes"}
"""Modules without cases."""


def names() -> tuple[str, ...]:
    """The modules with a function `cases`, in the order in which they are measured."""
    return ("network", *OPERATORS, "attention_schemes")


def modules() -> tuple[list[ModuleType], dict[str, str]]:
    """The modules, and those that are left out since the measured seqca, an older one, lacks what they need."""
    present = []
    others = {path.stem for path in Path(__file__).parent.glob("*.py")} - {*names(), *HELPERS}
    left_out = dict.fromkeys(sorted(others), "no such operator is registered")
    for name in names():
        try:
            present.append(import_module(f".{name}", __package__))
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "seqca":
                raise
            left_out[name] = str(error)
    return present, left_out


def all_cases(wanted: CaseSet, selection: Selection | None = None) -> Iterator[Case]:
    """The selected cases of a set, in the order in which they are measured."""
    for module in modules()[0]:
        for case in module.cases(wanted):
            if selection is None or selection.takes(case):
                yield case
