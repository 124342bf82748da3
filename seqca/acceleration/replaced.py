"""The classes of replaced modules: made once for each class that is replaced, and found again by pickling.

A made class derives from the fused class and from the module's own. It has the name of the latter; its qualified name
says what it was made from, and nothing that is not ASCII or has dots, which pickling reads as a path.
"""

import sys
from importlib import import_module
from typing import Any

from torch import nn

_BETWEEN = "|"


def replaced_class(fused: type[nn.Module], original: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a module's class whose `forward` is the fused one."""
    for made in original.__subclasses__():
        if made.__bases__ == (fused, original) and made.__module__ == __name__:
            return made
    names = {"__module__": __name__, "__qualname__": f"{_written(fused)}{_BETWEEN}{_written(original)}"}
    metaclass: Any = type(original)
    return metaclass(original.__name__, (fused, original), names | {"__doc__": original.__doc__})


def replace_class(module: nn.Module, fused: type[nn.Module]) -> None:
    """Gives a module a fused `forward`, in place; nothing else of it changes."""
    module.__class__ = replaced_class(fused, type(module))


def restore_class(module: nn.Module) -> None:
    """Gives a replaced module back what it was."""
    module.__class__ = original_class(module)


def restore(model: nn.Module) -> None:
    """Undoes `accelerate` in a model, such as a copy of the one that it changed; what modules have learnt stays."""
    for module in model.modules():
        if is_replaced(module):
            restore_class(module)


def is_replaced(module: nn.Module) -> bool:
    """Whether `accelerate` replaced a module."""
    return type(module).__module__ == __name__


def fused_class(module: nn.Module) -> type[nn.Module]:
    """The class whose `forward` a replaced module has."""
    return type(module).__bases__[0]


def original_class(module: nn.Module) -> type[nn.Module]:
    """What a module was before; its class, if it was not replaced."""
    return type(module).__bases__[1] if is_replaced(module) else type(module)


def __getattr__(name: str) -> Any:
    """The class of a qualified name, for pickling in another process."""
    fused, between, original = name.partition(_BETWEEN)
    if not between:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return replaced_class(_read(fused), _read(original))


def _written(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}".replace(".", "/")


def _read(written: str) -> Any:
    module, _, path = written.replace("/", ".").partition(":")
    found: Any = sys.modules.get(module) or import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found
