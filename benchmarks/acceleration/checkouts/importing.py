"""Imports from checkouts, in this process alone."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def importable(checkout: Path) -> None:
    """Makes the packages of a checkout importable, which were written for NumPy below 1.24 and an older torchvision."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    vars(np).setdefault("int", int)
    stand_in("termcolor", colored=lambda text, *_: text)
    stand_in("torchvision.models.utils", load_state_dict_from_url=None)


def stand_in(name: str, **contents: Any) -> None:
    """A module with these contents, where there is none of the name."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = ModuleType(name)
        module.__dict__.update(contents)
        sys.modules[name] = module
